"""The arms of imported rows: one for every label, or one for every level, or ranges of levels with about equally many rows.

Levels that are words are ordered by the numbers in them (`Level 3`), or as easy, medium, hard. Other words are ordered by the
alphabet.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from instar.components.dataset_prep.imported.part import refused
from instar.components.generated.templates import KINDS

MOST_ARMS, MOST_LEVELS, RANGES = 100, 12, 5
"""Most labels of an arm column, most levels that are an arm each, and how many ranges more levels are cut into."""
ALL = "all"
"""The arm of rows without arms and levels."""
ORDERS = (
    ("trivial", "very easy", "easy", "medium", "intermediate", "hard", "very hard", "expert"),
    ("beginner", "elementary", "intermediate", "advanced", "expert"),
    ("low", "medium", "high"),
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_OTHER = re.compile(r"[^\w.\- ]+")


@dataclass(kw_only=True)
class Labels:
    """What the first pass collects: the labels of arms, and the levels. A text is stored as its number."""

    column: str
    numbers: dict[str, int] = field(default_factory=dict)
    most: int = MOST_ARMS

    def number(self, label: str, where: str) -> int:
        """Return the number of a label. Raises `ContractError` when there are too many labels."""
        known = self.numbers.get(label)
        if known is None:
            known = self.numbers[label] = len(self.numbers)
            if known >= self.most:
                action = "choose a column with few values, or leave it out with --drop"
                raise refused(f"at most {self.most} values of column '{self.column}'", "more", where, action)
        return known


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The names of all arms, and how a row finds its own: by the number of its label, or by its level."""

    names: tuple[str, ...]
    edges: tuple[float, ...] = ()
    """With levels: the largest level of every arm but the last. Without: an arm is the number of its label."""
    by_level: bool = False
    order: tuple[float, ...] = ()
    """The level of each text level, by its number."""

    def of(self, labels: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Return the number of the arm of every row."""
        if not self.by_level:
            return labels
        return np.asarray(np.searchsorted(np.asarray(self.edges), levels, side="left"))

    def levels(self, levels: np.ndarray) -> np.ndarray:
        """Return the level of every row. Rows without one have level 0."""
        values = np.asarray(self.order)[levels.astype(np.int64)] if self.order else levels
        return np.asarray(values, dtype=np.float64)


def build(labels: Sequence[str], words: Sequence[str], levels: array[float], column: str) -> Arms:
    """Return the arms. `labels` are those of the arm column, `words` the levels that are text, `levels` all levels as numbers."""
    order = tuple(float(rank) for rank in ranks(words)) if words else ()
    if labels:
        return Arms(names=_names(labels, column), order=order)
    if not len(levels):
        return Arms(names=(ALL,), order=order)
    values = np.frombuffer(levels, dtype=np.float64)
    values = np.asarray(order)[values.astype(np.int64)] if words else values
    distinct, counts = np.unique(values, return_counts=True)
    if words:
        by_rank = [word for _, word in sorted(zip(order, words, strict=True))]
        return Arms(names=_names(by_rank, column), edges=tuple(distinct[:-1].tolist()), by_level=True, order=order)
    if len(distinct) <= MOST_LEVELS:
        names = _names([f"level-{value:g}" for value in distinct], column)
        return Arms(names=names, edges=tuple(distinct[:-1].tolist()), by_level=True)
    edges = cut(distinct, counts, RANGES)
    low = [distinct[0], *(distinct[np.searchsorted(distinct, edge, side="right")] for edge in edges)]
    ranges = [f"level-{a:g}-to-{b:g}" for a, b in zip(low, [*edges, distinct[-1]], strict=True)]
    return Arms(names=_names(ranges, column), edges=tuple(edges), by_level=True)


def cut(distinct: np.ndarray, counts: np.ndarray, ranges: int) -> list[float]:
    """Return the largest value of every range but the last. Ranges have about equally many rows, and equal values stay together."""
    below = np.cumsum(counts) / counts.sum()
    places = [int(np.argmin(np.abs(below - (n + 1) / ranges))) for n in range(ranges - 1)]
    return [float(distinct[place]) for place in sorted(set(places)) if place < len(distinct) - 1]


def ranks(words: Sequence[str]) -> list[float]:
    """Return the level of each word: the number in it, or its place in a known order, or its place in the alphabet."""
    numbers = [_NUMBER.findall(word) for word in words]
    if all(len(inside) == 1 for inside in numbers) and len({inside[0] for inside in numbers}) == len(words):
        return [float(inside[0]) for inside in numbers]
    lower = [word.casefold() for word in words]
    known = next((order for order in ORDERS if set(lower) <= set(order)), sorted(lower))
    return [float(known.index(word)) for word in lower]


def _names(labels: Sequence[str], column: str) -> tuple[str, ...]:
    """Return names of arms that fit into task ids and metrics. Two labels may not get one name."""
    names = [_OTHER.sub("-", label).strip("- ") or "blank" for label in labels]
    repeated = sorted({name for name in names if names.count(name) > 1} | (set(names) & set(KINDS)))
    if repeated:
        same = [label for label, name in zip(labels, names, strict=True) if name == repeated[0]]
        raise refused(
            "labels that give arms with different names, and no name of a kind of generated task",
            f"{same} for arm '{repeated[0]}'",
            column,
            "rename the labels",
        )
    return tuple(names)
