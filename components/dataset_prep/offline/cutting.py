"""Cuts episodes into slices. A slice is some consecutive steps of an episode, and it is what a curriculum draws.

A training window starts at every step of a slice. Such a window may end after the slice, but never after the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes, Integers
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The steps from `start` up to but not including `end` of one episode. The first step of the episode is 0."""

    task_id: str
    tier: str
    episode: int
    start: int
    end: int


def slices(episodes: Episodes, window: int, arms: list[str] | None = None) -> list[Slice]:
    """Return the slices of all episodes in order. Their names are `<arm>/train/<number>`.

    The arm of an episode is its tier, or its entry in `arms`. Every step is in exactly one slice. An episode of T steps has
    round(T / window) slices, and at least one. Their sizes differ by at most 1. A window below 1 is a `ConfigError`.
    """
    if window < 1:
        raise ConfigError(
            expected="window >= 1",
            found=str(window),
            where="window",
            action="set it to the number of steps of a window",
        )
    names = episodes.tier.tolist() if arms is None else arms
    numbers: dict[str, int] = {}
    out = []
    for episode, (arm, length) in enumerate(zip(names, episodes.lengths.tolist(), strict=True)):
        parts = max(1, (2 * length + window) // (2 * window))
        borders = [part * length // parts for part in range(parts + 1)]
        for start, end in pairwise(borders):
            number = numbers[arm] = numbers.get(arm, -1) + 1
            name = f"{arm}/train/{number:05d}"
            out.append(Slice(task_id=name, tier=arm, episode=episode, start=start, end=end))
    return out


def return_buckets(returns: Doubles, buckets: int) -> list[str]:
    """Return the arm of every episode by its return: `q0` for the lowest returns, and so on to `q<buckets - 1>` for the highest.

    The numbers of episodes per arm differ by at most 1. Episodes with equal returns keep their order, so the result depends on the
    data alone. `buckets` below 1 or above the number of episodes is a `ConfigError`.
    """
    if not 1 <= buckets <= len(returns):
        raise ConfigError(
            expected=f"1 to {len(returns)} buckets",
            found=str(buckets),
            where="dataset_prep.buckets",
            action="choose fewer buckets",
        )
    rank: Integers = np.empty(len(returns), np.int64)
    rank[np.argsort(returns, kind="stable")] = np.arange(len(returns))
    width = len(str(buckets - 1))
    return [f"q{bucket:0{width}d}" for bucket in (rank * buckets // len(returns)).tolist()]
