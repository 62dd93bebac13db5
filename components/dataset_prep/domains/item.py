"""What a task generator returns (`Item`), and how a generator is described (`Domain`).

A generator is a pure function of (params, seed, index). Its random numbers depend only on `seed + index`, so this one number
names an item: `generate(params, seed, index) == generate(params, seed + index, 0)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from instar.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One task before it is put into a template.

    - `prompt_body`: the task in words.
    - `terse`: the same task on one short line, for character-level models.
    - `reference`: what the verifier needs. `answer` is always an accepted answer. `chance` is the probability that a guess is
      right.
    - `features`: facts about the item, ready for JSON.
    - `key`: the identity of the task. Two items with equal keys are the same task, even when their texts differ.
    """

    prompt_body: str
    terse: str
    reference: dict[str, Any]
    features: dict[str, Any]
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A family of tasks: the function that generates items, its name and version, the verifier, and the form of an answer."""

    generate: Callable[[dict[str, int], int, int], Item]
    generator: str
    verifier: str
    answer_form: str


def resolve(params: Mapping[str, int], defaults: Mapping[str, int], domain: str) -> dict[str, int]:
    """Return `defaults` with the changes of `params`. An unknown parameter is a `ConfigError`."""
    for name in params:
        if name not in defaults:
            raise ConfigError(
                expected=f"a parameter of {domain}",
                found=f"'{name}'",
                where=f"params.{name}",
                action=nearest(name, defaults),
            )
    return {**defaults, **params}


def require(condition: bool, expected: str, params: Mapping[str, int], domain: str) -> None:
    """Raise `ConfigError` unless `condition` holds for the parameters of a domain."""
    if not condition:
        raise ConfigError(
            expected=expected, found=f"{dict(params)}", where=f"{domain}.params", action="correct the parameters"
        )
