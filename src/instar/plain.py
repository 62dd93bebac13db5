"""The border of plain data: TOML and JSON that somebody else wrote become text, numbers, lists and tables, or a named error.

A parser of the standard library can end in other errors than its own: nesting deeper than Python's stack, integers of more
digits than Python converts, a dotted key that takes it minutes. Here each of these is refused, before it costs anything.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Sequence
from typing import Any, NoReturn

from instar.errors import ConfigError
from instar.terminal import printable

DEPTH = 32
"""How deep values may nest, and how many parts a dotted key may have. No configuration comes near it."""
SHOWN = 200
"""How many characters of a value an error shows."""
_OPAQUE = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)' + r"|'''.*?(?:'''|\Z)" + r'|"(?:\\.|[^"\\\n])*"?' + r"|'[^'\n]*'?" + r"|#[^\n]*",
    re.DOTALL,
)
"""Strings and comments of TOML. One without an end reaches to the end, so that the search stays linear."""
_HALF = re.compile("[\ud800-\udfff\x00]")


def brief(value: Any) -> str:
    """Return `repr` of a value for an error: on one line, in at most `SHOWN` characters, without control characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # more digits than Python converts, more levels than its stack
        text = f"a value that cannot be shown ({error})"
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)")


def word(value: Any) -> str:
    """Return text as it is and anything else as `brief` shows it: what a near name is looked for with."""
    return value[:SHOWN] if isinstance(value, str) else brief(value)


def toml(text: str, where: str) -> dict[str, Any]:
    """Return what a TOML document says; `ConfigError` for anything that is none, or that no configuration can hold."""
    found = _parsed(text, where)
    _check(found, where)
    return found


def toml_value(raw: str, where: str) -> Any:
    """Return one TOML value. What is not TOML is a string, and `none` is nothing; neither may hold a control character."""
    try:
        found = _parsed(f"v = {raw}", where)
    except ConfigError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise
        if printable(raw) != raw or "\n" in raw or "\t" in raw:
            _refuse("one TOML value, or text on one line without control characters", brief(raw), where)
        return None if raw == "none" else raw
    if set(found) != {"v"} or any(part[0] == "#" for part in _OPAQUE.findall(raw)):
        _refuse("one TOML value", f"{brief(raw)}, of which only the beginning would count", where)
    _check(found["v"], where)
    return found["v"]


def _parsed(text: str, where: str) -> dict[str, Any]:
    bare = _OPAQUE.sub(lambda found: "" if found[0][0] == "#" else "s", text)
    if _depth(bare) > DEPTH:
        _refuse(f"tables, lists and dotted keys of at most {DEPTH} levels", "more", where)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # not TOML, or an integer of more digits than Python converts
        raise ConfigError(
            expected="valid TOML", found=brief(str(error)), where=where, action="mend it where `found` says"
        ) from error


def checked_path(keys: Sequence[str], where: str) -> Sequence[str]:
    """Return the parts of a dotted key if they are not too many."""
    if len(keys) > DEPTH:
        _refuse(f"a key of at most {DEPTH} parts", f"one of {len(keys):,}", where)
    return keys


def loads(data: str | bytes) -> Any:
    """Return what JSON says. `ValueError` for all that is none: other bytes, NaN, numbers beyond a float, nested too deep."""
    try:
        return json.loads(
            data if isinstance(data, str) else data.decode(), parse_constant=_constant, parse_float=_float
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text[:SHOWN])


def _depth(bare: str) -> int:
    """Return how deep TOML without its strings and comments nests, or the parts of its longest key if that is more."""
    depth = deepest = 0
    for mark in re.findall(r"[\[\]{}]", bare):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return max(deepest, *(part.count(".") for part in re.split(r"[=,{}\[\]\n]", bare)))


def _check(value: Any, where: str) -> None:
    """Refuse what canonical JSON cannot hold: dates, half characters, NUL, integers that no float holds."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check(key, where)
            _check(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, where)
    elif isinstance(value, str):
        if _HALF.search(value):
            _refuse("text in UTF-8 without NUL", brief(value), where)
    elif not isinstance(value, bool | int | float):
        _refuse("text, a number, true, false, a list or a table", f"the date or time {value}", where)
    elif isinstance(value, int) and value.bit_length() > 10_000:  # hexadecimal can write what Python does not print
        _refuse("a finite number", f"an integer of {value.bit_length():,} bits", where)


def _refuse(expected: str, found: str, where: str) -> NoReturn:
    raise ConfigError(expected=expected, found=found, where=where, action=f"write {expected}")
