"""The checks of ledger entries: which fields an entry must have before anything reads it.

A digest proves that an entry was not changed since it was written. It does not prove that instar wrote it: whoever can write
to a store can forge entries with valid digests. So when a ledger is loaded, every field that instar reads is checked here.
An entry may have more fields than those.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from instar.errors import LedgerError
from instar.plain import brief

Check: TypeAlias = Callable[[Any], bool]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CLOCK_MAX = 1e11
"""Seconds since 1970 up to the year 5138. Functions for calendar dates can show times until then."""


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023


def _clock(value: Any) -> bool:
    return _number(value) and 0 <= value < _CLOCK_MAX


def _digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _digest_or_none(value: Any) -> bool:
    return value == "" or _digest(value)


def _all(check: Check) -> Check:
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))


def _digests(value: Any) -> bool:
    return isinstance(value, list) and all(map(_digest, value))


def _shard(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_count, value)) and value[0] < value[1]


WORDS: dict[Check, str] = {
    _count: "an integer from 0 to 2^53",
    _text: "a text",
    _number: "a finite number",
    _digest: "a digest 'sha256:...'",
    _digest_or_none: "a digest 'sha256:...' or an empty text",
    _shard: "two integers [i, n] with i < n",
    _digests: "a list of digests 'sha256:...'",
    _clock: "seconds since 1970, before the year 5138",
}
_NAMED, _NUMBERS = _all(_digest), _all(_number)
WORDS |= {_NAMED: "a table of digests", _NUMBERS: "a table of finite numbers"}

BODIES: dict[str, dict[str, Check]] = {
    "open": {
        "name": _text,
        "scale": _text,
        "seed": _count,
        "code": _text,
        "recipe.iterations": _count,
        "recipe.inner_steps": _count,
    },
    "stage": {
        "stage": _text,
        "iteration": _count,
        "step": _count,
        "key": _text,
        "inputs": _NAMED,
        "outputs": _NAMED,
        "metrics": _NUMBERS,
        "code": _text,
    },
    "gate": {
        "iteration": _count,
        "evaluation": _digest,
        "baseline": _digest_or_none,
        "decision.action": _text,
        "decision.reason": _text,
        "decision.promote": lambda value: isinstance(value, bool),
    },
    "promote": {"policy": _digest, "evaluation": _digest, "model": _text},
    "accept_code": {"code": _text},
    "extend": {"iterations": _count},
    "close": {"reason": _text, "iterations": _count, "policy": _digest, "champion": _digest},
}
"""Kind of entry -> field of its body -> what it must be."""
STAGES: dict[str, dict[str, Check]] = {
    "dataset_prep": {"outputs.tasks": _digest, "outputs.policy": _digest},
    "evaluate": {"inputs.policy": _digest, "outputs.evaluation": _digest},
    "fused": {"metrics.inner_steps": _number},
}
"""Stage -> what an entry of this stage must hold in addition."""
PINS = {"sources": _digests, "brought": _NAMED}
"""Field that an opening entry may have -> what it must be."""
CLOCKS = ("at", "started", "ended")


def check(kind: Any, body: Any, time: Any, where: str) -> None:
    """Raise `LedgerError` unless an entry of this kind can be read."""
    if not isinstance(kind, str) or kind not in BODIES:
        raise _wrong(f"one of {', '.join(BODIES)}", kind, f"{where}:kind")
    fields = dict(BODIES[kind])
    if kind == "stage" and isinstance(body, Mapping):
        fields |= STAGES.get(body["stage"], {}) if isinstance(body.get("stage"), str) else {}
        fields |= {"shard": _shard} if "shard" in body else {}
    if kind == "open" and isinstance(body, Mapping):
        fields |= {name: check for name, check in PINS.items() if name in body}
    for path, wanted in fields.items():
        _field(body, path, wanted, where)
    if not isinstance(time, Mapping):
        raise _wrong("a table", time, f"{where}:time")
    for name, value in time.items():
        measured = name.startswith("perf/")
        wanted = _clock if name in CLOCKS else _number if measured else lambda value: _text(value) or _number(value)
        if not wanted(value):
            raise _wrong(WORDS.get(wanted, "a text or a number"), value, f"{where}:time.{name}")


def _field(body: Any, path: str, wanted: Check, where: str) -> None:
    value, parts = body, path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(value, Mapping):
            raise _wrong("a table", value, ".".join([f"{where}:body", *parts[:depth]]))
        if part not in value:
            raise _wrong(WORDS.get(wanted, "true or false"), "nothing", f"{where}:body.{path}", shown=True)
        value = value[part]
    if not wanted(value):
        raise _wrong(WORDS.get(wanted, "true or false"), value, f"{where}:body.{path}")


def _wrong(expected: str, found: Any, where: str, *, shown: bool = False) -> LedgerError:
    return LedgerError(
        expected=expected,
        found=found if shown else brief(found),
        where=where,
        action="restore this entry from a copy of the store; if there is none, do not trust this ledger",
    )
