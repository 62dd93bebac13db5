"""Intervals of a mean over arms that keep their coverage when few tasks differ, without resampling.

The statistic is D = mean over arms of the mean over tasks, so a large arm weighs no more than a small one. Pairing is the caller's:
given per-task differences of two policies, the interval is that of the paired difference. Shapes: K arms, n_k tasks of arm k.

A mean d is inside when (D - d)^2 <= t^2 V(d), with t the quantile of Student's t at the degrees of freedom of Satterthwaite for
arms of equal spread, so that an arm of ten tasks beside one of two hundred counts as ten. The measured variance,
V = sum s_k^2 / (K^2 n_k), knows nothing of what no task showed: when no task of 48 differs it is 0, although one task in thirty
may well change. So V(d) is never below what events that were not seen would bring. An event moves one task by at most 1 and D by
at most e = max 1 / (K n_k). If d is the truth, then |d| / e events are due, of variance at most e |d| (1 - |d|), or |D - d| / e
beside those that were seen, of variance at most V + e |D - d|; the smaller of both bounds holds. In one arm of 0/1 values without
an event, both give Wilson's interval, and in paired differences that all point one way Tango's. Values without a bound (returns)
have events as large as the largest deviation that was seen; a rare failure that no episode showed stays unknown there.
`benchmarks/gate_coverage.py` measures coverage and width; docs/gate.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instar.errors import ContractError

Numbers = Any
"""A float, or an array with one entry per simulated draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the form in which people read it."""
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What the interval needs of the values: D, V, e, the largest deviation from an arm's mean, and degrees of freedom."""

    estimate: Numbers
    variance: Numbers
    event: float
    reach: Numbers
    freedom: float


def stratified_mean(values: Sequence[NDArray[np.float64]], confidence: float, *, bounded: bool = True) -> Interval:
    """Return the interval of the mean over arms; `values` holds one array [n_k] per arm, n_k >= 2.

    `bounded`: values are scores in [0, 1] or differences of such. An arm with one task has no measurable spread:
    `ContractError`, not an interval that is too narrow.
    """
    if not values or min(v.size for v in values) < 2:
        raise ContractError(
            expected="at least two tasks in every arm",
            found=f"{[int(v.size) for v in values]}",
            where="evaluate.intervals",
            action="raise evaluate.tasks_per_arm or the pool sizes",
        )
    found = moments(values)
    low, high = limits(found, confidence, bounded=bounded)
    return Interval(estimate=float(found.estimate), low=float(low), high=float(high))


def moments(values: Sequence[NDArray[np.float64]]) -> Moments:
    """Return the moments over the last axis of one array per arm, [..., n_k]; leading axes are draws."""
    arms, sizes = len(values), [v.shape[-1] for v in values]
    centres = [_mean(v) for v in values]
    gaps = [v - np.expand_dims(c, -1) for v, c in zip(values, centres, strict=True)]
    variance = sum((g * g).sum(-1) / ((n - 1) * n) for g, n in zip(gaps, sizes, strict=True)) / arms**2
    return Moments(
        estimate=sum(centres) / arms,
        variance=variance,
        event=event(sizes),
        reach=np.max([np.abs(g).max(-1) for g in gaps], axis=0),
        freedom=freedom(sizes),
    )


def limits(found: Moments, confidence: float, *, bounded: bool = True) -> tuple[Numbers, Numbers]:
    """Return (low, high) of `found`, entry by entry where its numbers are arrays."""
    c = student(confidence, found.freedom) ** 2
    seen = np.sqrt(c * found.variance)
    if not bounded:
        half = np.maximum(seen, c * found.event * found.reach)
        return found.estimate - half, found.estimate + half
    beside = (c * found.event + np.sqrt((c * found.event) ** 2 + 4 * c * found.variance)) / 2
    first, last = _wilson(found.estimate, c * found.event)
    low = found.estimate - np.maximum(seen, np.minimum(found.estimate - first, beside))
    high = found.estimate + np.maximum(seen, np.minimum(last - found.estimate, beside))
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def event(sizes: Sequence[int]) -> float:
    """Return how far one task can move the mean over arms of these sizes."""
    return 1 / (len(sizes) * min(sizes))


def freedom(sizes: Sequence[int]) -> float:
    """Return the degrees of freedom of a mean over arms of these sizes: n - 1 for one arm, K (n - 1) for K equal ones."""
    return float(sum(1 / n for n in sizes) ** 2 / sum(1 / (n * n * (n - 1)) for n in sizes))


def student(confidence: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t, at .95: 2.58 for 5 degrees, 2.01 for 48, 1.96 for many.

    Wallace's approximation (1959), exact to .3 % from 5 degrees on and too large below: 4.47 for 4.30 at 2.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(z * z / freedom))


def wilson(mean: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the Wilson interval of a share among `count` tasks.

    Exact in form for one 0/1 answer per task; for means of several answers it is conservative, because such means vary
    less than 0/1 values. Never empty at 0 or 1.
    """
    low, high = _wilson(np.float64(mean), NormalDist().inv_cdf(0.5 + confidence / 2.0) ** 2 / count)
    return max(0.0, float(low)), min(1.0, float(high))


def _wilson(estimate: Numbers, width: float) -> tuple[Numbers, Numbers]:
    """Return the smallest and the largest d with (estimate - d)^2 <= width |d| (1 - |d|), or the estimate where none is."""
    low = high = estimate
    for sign in (-1.0, 1.0):  # a quadratic equation on either side of 0
        middle = 2 * estimate + sign * width
        inside = middle * middle - 4 * (1 + width) * estimate * estimate
        root = np.sqrt(np.maximum(inside, 0.0))
        for end in ((middle - root) / (2 * (1 + width)), (middle + root) / (2 * (1 + width))):
            valid = (inside >= 0.0) & (sign * end >= 0.0)
            low, high = np.where(valid, np.minimum(low, end), low), np.where(valid, np.maximum(high, end), high)
    return low, high


def _mean(values: NDArray[np.float64]) -> Numbers:
    """Return the mean over the last axis; of one row without rounding in the sum, so that order does not matter."""
    return math.fsum(values.tolist()) / values.size if values.ndim == 1 else values.mean(-1)
