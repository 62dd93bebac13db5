"""Exact solver for zebra puzzles. Each item has a bit mask of the houses that are still possible: bit h is set while house h is
possible. The solver narrows the masks with the clues, and then searches.

There are n = c * k items. `truth` and every solution are lists of n houses (0 to k-1). Items `g * k` to `g * k + k - 1` form
category g. The items of a category are in different houses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from random import Random
from typing import NamedTuple


class Clue(NamedTuple):
    """A statement about the items `a` and `b`. For the kind `at`, `b` is a house."""

    kind: str
    a: int
    b: int


RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "same": lambda a, b: a == b,
    "apart": lambda a, b: a != b,
    "left": lambda a, b: a < b,
    "right": lambda a, b: a > b,
    "beside": lambda a, b: abs(a - b) == 1,
    "before": lambda a, b: a + 1 == b,
}
Bound = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def canonical(clue: Clue) -> Clue:
    """Return the same clue for both ways to say it. "b is right of a" becomes "a is left of b".

    The relations `same`, `apart` and `beside` are symmetric, so their smaller item comes first.
    """
    kind, a, b = clue
    if kind == "right":
        return Clue("left", b, a)
    return Clue(kind, min(a, b), max(a, b)) if kind in ("same", "apart", "beside") else clue


def holds(clue: Clue, houses: Sequence[int]) -> bool:
    """Return whether an assignment of houses satisfies a clue."""
    if clue.kind == "at":
        return houses[clue.a] == clue.b
    return RELATIONS[clue.kind](houses[clue.a], houses[clue.b])


@cache
def _support(kind: str, k: int, swap: bool) -> tuple[int, ...]:
    """Return for every mask of one item the mask of the houses that the other item can then have."""
    relation = RELATIONS[kind]
    table = []
    for mask in range(1 << k):
        partner = [h for h in range(k) if mask >> h & 1]
        table.append(sum(1 << h for h in range(k) if any(relation(p, h) if swap else relation(h, p) for p in partner)))
    return tuple(table)


def find_other(clues: Sequence[Clue], truth: Sequence[int], k: int, rng: Random) -> list[int] | None:
    """Return an assignment that fits all clues and differs from `truth`, or None when there is none."""
    masks = [(1 << k) - 1] * len(truth)
    bound: list[Bound] = []
    for kind, a, b in clues:
        if kind == "at":
            masks[a] &= 1 << b
        else:
            bound.append((a, b, _support(kind, k, False), _support(kind, k, True)))
    return _search(masks, bound, truth, k, rng)


def _search(masks: list[int], bound: list[Bound], truth: Sequence[int], k: int, rng: Random) -> list[int] | None:
    """Search depth-first for an assignment other than `truth`. Branch on the item with the fewest houses, its true house last."""
    if not _propagate(masks, bound, k):
        return None
    best, item = k + 1, -1
    for i, mask in enumerate(masks):
        size = mask.bit_count()
        if 1 < size < best:
            best, item = size, i
    if item < 0:
        solution = [mask.bit_length() - 1 for mask in masks]
        return solution if solution != list(truth) else None
    houses = [h for h in range(k) if masks[item] >> h & 1]
    rng.shuffle(houses)
    houses.sort(key=lambda h: h == truth[item])
    for house in houses:
        trial = masks.copy()
        trial[item] = 1 << house
        other = _search(trial, bound, truth, k, rng)
        if other is not None:
            return other
    return None


def _propagate(masks: list[int], bound: list[Bound], k: int) -> bool:
    """Narrow the masks in place until neither the clues nor the categories narrow them further. Return False on a contradiction."""
    changed = True
    while changed:
        changed = False
        for a, b, allowed_a, allowed_b in bound:
            before_a, before_b = masks[a], masks[b]
            after_a = before_a & allowed_a[before_b]
            after_b = before_b & allowed_b[after_a]
            if not after_a or not after_b:
                return False
            if after_a != before_a or after_b != before_b:
                masks[a], masks[b], changed = after_a, after_b, True
        for start in range(0, len(masks), k):
            group = tuple(masks[start : start + k])
            reduced = _all_different(group)
            if reduced is None:
                return False
            if reduced != group:
                masks[start : start + k], changed = reduced, True
    return True


@lru_cache(maxsize=1 << 16)
def _all_different(group: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the narrowed masks of one category, or None on a contradiction.

    A house that one item occupies for certain is removed from the other items. A house that only one item can have is its house.
    """
    once = twice = settled = 0
    for mask in group:
        twice |= once & mask
        once |= mask
        if mask & (mask - 1) == 0:
            if settled & mask:
                return None
            settled |= mask
    if once != (1 << len(group)) - 1:
        return None
    reduced, hidden = [], once & ~twice
    for mask in group:
        if mask & (mask - 1):
            mask = mask & hidden or mask & ~settled
            if not mask or (mask & hidden and mask & (mask - 1)):
                return None  # this item has no house left, or there are two houses that only this item can have
        reduced.append(mask)
    return tuple(reduced)
