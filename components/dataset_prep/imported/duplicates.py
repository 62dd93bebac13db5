"""Rows with the same prompt: duplicates, leaks between splits, and prompts with two answers.

Two prompts are the same if they differ in blanks only.

- A duplicate has the same answer in the same split. It would count a task twice.
- A leak is in another split. The policy would be tested on what it was trained on.
- A conflict has another answer in the same split. At least one of the answers is wrong, unless the reward accepts both.

All three are refused with the places of both rows. `drop` keeps one row of each prompt: a test row before a validation row before a
training row, and among these the first. `keep` accepts conflicts, but never duplicates and leaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from instar.components.dataset_prep.imported.part import refused

Repeated: TypeAlias = Literal["refuse", "drop"]
Conflicts: TypeAlias = Literal["refuse", "drop", "keep"]
KINDS = {
    "leaks": "each prompt in one split only",
    "duplicates": "each prompt once",
    "conflicts": "one answer to a prompt",
}
"""Kind -> what is expected instead. The kinds are told in this order."""


@dataclass(kw_only=True)
class Repeats:
    """How many rows of each kind there are, and the first pair of each: two positions of (part, row)."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    first: dict[str, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)

    def note(self, kind: str, one: tuple[int, int], other: tuple[int, int]) -> None:
        """Count a pair. The pair whose second row comes first in the files is kept as the example."""
        self.counts[kind] += 1
        pair = (min(one, other), max(one, other))
        if kind not in self.first or pair[::-1] < self.first[kind][::-1]:
            self.first[kind] = pair

    def check(self, duplicates: Repeated, conflicts: Conflicts, place: Callable[[int, int], str]) -> None:
        """Raise `ContractError` for the first kind that is refused."""
        actions = {
            "leaks": "remove one of the rows, or pass --duplicates drop, which keeps the held-out row",
            "duplicates": "remove one of the rows, or pass --duplicates drop",
            "conflicts": "correct one of the answers, or pass --conflicts drop (the first counts) or keep (both are tasks)",
        }
        for kind, expected in KINDS.items():
            policy = conflicts if kind == "conflicts" else duplicates
            if self.counts[kind] and policy == "refuse":
                one, other = self.first[kind]
                raise refused(
                    expected,
                    f"{self.counts[kind]:,} {kind}; the first is {place(*other)}, which repeats {place(*one)}",
                    place(*other),
                    actions[kind],
                )


def remaining(columns: dict[str, np.ndarray], conflicts: Conflicts, repeats: Repeats) -> np.ndarray:
    """Return the indices of the rows of a bucket that stay, in the order of their hashes. What repeats is noted in `repeats`.

    `columns` are `key`, `answer`, `split`, `part` and `row`.
    """
    order = np.lexsort([columns[name] for name in ("row", "part", "split", "key")])
    keys = columns["key"][order]
    again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    stays = np.ones(len(order), dtype=bool)
    start, answers = -1, set[int]()
    for place in again.tolist():
        if start < 0 or keys[start] != keys[place]:
            start = place - 1
            answers = {int(columns["answer"][order[start]])}
        one, other = int(order[start]), int(order[place])
        answer = int(columns["answer"][other])
        kind = "leaks" if columns["split"][one] != columns["split"][other] else "conflicts"
        kind = "duplicates" if kind == "conflicts" and answer in answers else kind
        repeats.note(kind, _position(columns, one), _position(columns, other))
        stays[place] = kind == "conflicts" and conflicts == "keep"
        answers.add(answer)
    return order[stays]


def _position(columns: dict[str, np.ndarray], index: int) -> tuple[int, int]:
    return int(columns["part"][index]), int(columns["row"][index])
