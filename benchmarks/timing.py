"""Interleaved measurement (A, B, A, B, ...): CPU seconds beside wall seconds, medians, medians of pairwise ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of one execution."""

    wall_s: float
    cpu_s: float


def interleave(sides: dict[str, Callable[[], Cost]], repeats: int) -> dict[str, list[Cost]]:
    """Return the costs of `repeats` rounds; a first round is thrown away."""
    out: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, side in sides.items():
            cost = side()
            if number:
                out[name].append(cost)
    return out


def compare(slow: Sequence[Cost], fast: Sequence[Cost]) -> dict[str, float]:
    """Return medians of pairwise ratios slow/fast."""
    return {
        "ratio_wall": statistics.median(a.wall_s / b.wall_s for a, b in zip(slow, fast, strict=True)),
        "ratio_cpu": statistics.median(a.cpu_s / b.cpu_s for a, b in zip(slow, fast, strict=True)),
    }


def medians(costs: Sequence[Cost]) -> dict[str, float]:
    """Return median seconds."""
    return {
        "wall_s": statistics.median(c.wall_s for c in costs),
        "cpu_s": statistics.median(c.cpu_s for c in costs),
    }
