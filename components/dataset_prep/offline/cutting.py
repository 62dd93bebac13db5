"""Cutting episodes into slices: runs of consecutive steps, each step being the start of a training window once.

A slice is what a curriculum draws. A window that starts in a slice may reach beyond it, never beyond its episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes, Integers
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The window starts `start` up to `end` of one episode, counted within the episode."""

    task_id: str
    tier: str
    episode: int
    start: int
    end: int


def slices(episodes: Episodes, window: int, arms: list[str] | None = None) -> list[Slice]:
    """Return the slices of all episodes in order, named `<arm>/train/<number>`; the arm of an episode is its tier, or
    what `arms` says. Every step is in exactly one slice. An episode of T steps has round(T / window) slices, at least
    one, whose sizes differ by at most 1. `ConfigError` below a window of 1."""
    if window < 1:
        raise ConfigError(
            expected="window >= 1", found=str(window), where="window", action="give the steps of a window"
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
    """Return an arm per episode by its return: `q0` the lowest share to `q<buckets - 1>` the highest, sizes within 1.

    Equal returns keep their order, so the answer depends on the data alone. `ConfigError` unless 1 <= buckets <= n.
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
