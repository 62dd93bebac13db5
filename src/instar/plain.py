"""Parsing of TOML and JSON that somebody else wrote. The result is text, numbers, lists and tables, or a named error.

The parsers of the standard library fail in unexpected ways for some inputs. Nesting can be deeper than Python's stack, an
integer can have more digits than Python converts, and a long dotted key can take minutes. Such inputs are refused here
before they cost anything.
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
"""How deep values may nest, and how many parts a dotted key may have. Real configurations stay far below it."""
SHOWN = 200
"""How many characters of a value an error shows."""
_OPAQUE = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)' + r"|'''.*?(?:'''|\Z)" + r'|"(?:\\.|[^"\\\n])*"?' + r"|'[^'\n]*'?" + r"|#[^\n]*",
    re.DOTALL,
)
"""Strings and comments of TOML. A string that is not closed reaches to the end of the text, so the search takes linear time."""
_HALF = re.compile("[\ud800-\udfff\x00]")


def brief(value: Any) -> str:
    """Return `repr` of a value for an error: on one line, in at most `SHOWN` characters, without control characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # an integer with too many digits, or a value that nests too deep
        text = f"a value that cannot be shown ({error})"
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)")


def word(value: Any) -> str:
    """Return text as it is and any other value as `brief` shows it, for a search for the nearest valid name."""
    return value[:SHOWN] if isinstance(value, str) else brief(value)


def toml(text: str, where: str) -> dict[str, Any]:
    """Return the content of a TOML document. Raise `ConfigError` if it is not TOML or if no configuration can hold it."""
    table = _parsed(text, where)
    _check(table, where)
    return table


def toml_value(raw: str, where: str) -> Any:
    """Return one TOML value. A text that is not TOML is taken as a string, and the word `none` as None.

    Such a string may not have control characters.
    """
    try:
        table = _parsed(f"v = {raw}", where)
    except ConfigError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise
        if printable(raw) != raw or "\n" in raw or "\t" in raw:
            _refuse("one TOML value, or text on one line without control characters", brief(raw), where)
        return None if raw == "none" else raw
    if set(table) != {"v"} or any(part[0] == "#" for part in _OPAQUE.findall(raw)):
        _refuse("one TOML value", f"{brief(raw)}, of which only the beginning would count", where)
    _check(table["v"], where)
    return table["v"]


def _parsed(text: str, where: str) -> dict[str, Any]:
    bare = _OPAQUE.sub(lambda match: "" if match[0][0] == "#" else "s", text)
    if _depth(bare) > DEPTH:
        _refuse(f"tables, lists and dotted keys of at most {DEPTH} levels", "more levels", where)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # the text is not TOML, or has an integer with too many digits
        raise ConfigError(
            expected="valid TOML", found=brief(str(error)), where=where, action="correct it where `found` says"
        ) from error


def checked_path(keys: Sequence[str], where: str) -> Sequence[str]:
    """Return the parts of a dotted key. Raise `ConfigError` if they are too many."""
    if len(keys) > DEPTH:
        _refuse(f"a key of at most {DEPTH} parts", f"a key of {len(keys):,} parts", where)
    return keys


def loads(data: str | bytes) -> Any:
    """Return the value of a JSON text. Raise `ValueError` for anything that is not JSON.

    That includes NaN, numbers that are too large for a float, and nesting that is too deep.
    """
    try:
        return json.loads(
            data if isinstance(data, str) else data.decode(), parse_constant=_constant, parse_float=_float
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text[:SHOWN])


def _depth(bare: str) -> int:
    """Return the deepest nesting of TOML without strings and comments, or the number of dots of its longest key if larger."""
    depth = deepest = 0
    for mark in re.findall(r"[\[\]{}]", bare):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return max(deepest, *(part.count(".") for part in re.split(r"[=,{}\[\]\n]", bare)))


def _check(value: Any, where: str) -> None:
    """Refuse what canonical JSON cannot hold: dates, halves of surrogate pairs, NUL, and integers too large for a float."""
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
    elif (
        isinstance(value, int) and value.bit_length() > 10_000
    ):  # TOML can have it in hexadecimal; Python cannot print it
        _refuse("a finite number", f"an integer of {value.bit_length():,} bits", where)


def _refuse(expected: str, found: str, where: str) -> NoReturn:
    raise ConfigError(expected=expected, found=found, where=where, action=f"write {expected}")
