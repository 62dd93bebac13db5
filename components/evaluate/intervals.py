"""Confidence intervals of a mean over arms. They keep their coverage when few tasks differ, and need no resampling.

The statistic is D, the mean over arms of the mean over tasks. So a large arm weighs no more than a small one. For a paired
comparison, pass the difference of two policies for every task. Shapes: K arms, n_k tasks of arm k.

The interval. A mean d is inside when (D - d)^2 <= t^2 V(d). Here t is the quantile of Student's t. Its degrees of freedom are
Satterthwaite's for arms of equal spread. So the smallest arms decide: an arm of ten tasks beside one of two hundred counts as ten.

The variance V(d). The measured variance is V = sum s_k^2 / (K^2 n_k). It ignores changes that no task happened to show. For
example, when none of 48 tasks differs, V is 0, although one task in thirty may well change. So V(d) is at least the variance of
such unseen events. An event is a change of one task by at most 1, which moves D by at most e = max 1 / (K n_k). Two bounds hold
if d is the truth:

    |d| / e events are expected in all. Their variance is at most e |d| (1 - |d|).
    |D - d| / e events are expected beside those that were seen. The variance is then at most V + e |D - d|.

The smaller bound is used. For one arm of 0/1 values that shows no event, both bounds give Wilson's interval. For paired differences
that all have one sign, they give Tango's interval.

Values without a bound, such as returns, have events as large as the largest deviation that was seen. A rare failure that no episode
showed stays unknown there. `benchmarks/gate_coverage.py` measures coverage and width, and docs/gate.md has the table.
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
"""A float, or an array with one number per simulated draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return a text for people, for example `+0.100 [+0.020, +0.180]`."""
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What an interval needs: D, V, e, the largest deviation from the mean of an arm (`reach`), and the degrees of freedom."""

    estimate: Numbers
    variance: Numbers
    event: float
    reach: Numbers
    freedom: float


def stratified_mean(values: Sequence[NDArray[np.float64]], confidence: float, *, bounded: bool = True) -> Interval:
    """Return the interval of the mean over arms. `values` holds one array [n_k] per arm, with n_k >= 2.

    `bounded` says that values are scores in [0, 1], or differences of such scores. Raises `ContractError` for an arm with one task:
    its spread cannot be measured, and an interval would be too narrow.
    """
    if not values or min(v.size for v in values) < 2:
        raise ContractError(
            expected="at least two tasks in every arm",
            found=f"arms with {[int(v.size) for v in values]} tasks",
            where="evaluate.intervals",
            action="raise evaluate.tasks_per_arm or the pool sizes",
        )
    measured = moments(values)
    low, high = limits(measured, confidence, bounded=bounded)
    return Interval(estimate=float(measured.estimate), low=float(low), high=float(high))


def moments(values: Sequence[NDArray[np.float64]]) -> Moments:
    """Return the moments over the last axis of one array [..., n_k] per arm. The leading axes are draws."""
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


def limits(measured: Moments, confidence: float, *, bounded: bool = True) -> tuple[Numbers, Numbers]:
    """Return the ends (low, high) of the interval. They are arrays where the numbers of `measured` are arrays."""
    c = student(confidence, measured.freedom) ** 2
    seen = np.sqrt(c * measured.variance)
    if not bounded:
        half = np.maximum(seen, c * measured.event * measured.reach)
        return measured.estimate - half, measured.estimate + half
    beside = (c * measured.event + np.sqrt((c * measured.event) ** 2 + 4 * c * measured.variance)) / 2
    lowest, highest = _wilson(measured.estimate, c * measured.event)
    low = measured.estimate - np.maximum(seen, np.minimum(measured.estimate - lowest, beside))
    high = measured.estimate + np.maximum(seen, np.minimum(highest - measured.estimate, beside))
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def event(sizes: Sequence[int]) -> float:
    """Return how far one task can move the mean over arms of these sizes."""
    return 1 / (len(sizes) * min(sizes))


def freedom(sizes: Sequence[int]) -> float:
    """Return the degrees of freedom of a mean over arms of these sizes. One arm has n - 1, and K equal arms have K (n - 1)."""
    return float(sum(1 / n for n in sizes) ** 2 / sum(1 / (n * n * (n - 1)) for n in sizes))


def student(confidence: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t. At confidence .95 it is 2.58 for 5 degrees of freedom, and 2.01 for 48.

    This is Wallace's approximation of 1959. From 5 degrees on its error is at most .3 %. Below it is too large, for example 4.47
    instead of 4.30 at 2 degrees.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(z * z / freedom))


def wilson(mean: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the Wilson interval of a share among `count` tasks.

    The formula is made for one 0/1 answer per task. For means of several answers it is too wide, because such means vary less. The
    interval has a width above 0 even for a share of 0 or 1.
    """
    low, high = _wilson(np.float64(mean), NormalDist().inv_cdf(0.5 + confidence / 2.0) ** 2 / count)
    return max(0.0, float(low)), min(1.0, float(high))


def _wilson(estimate: Numbers, width: float) -> tuple[Numbers, Numbers]:
    """Return the smallest and the largest d with (estimate - d)^2 <= width |d| (1 - |d|). Without such a d, return the estimate."""
    low = high = estimate
    for sign in (-1.0, 1.0):  # one quadratic equation on each side of 0
        middle = 2 * estimate + sign * width
        inside = middle * middle - 4 * (1 + width) * estimate * estimate
        root = np.sqrt(np.maximum(inside, 0.0))
        for end in ((middle - root) / (2 * (1 + width)), (middle + root) / (2 * (1 + width))):
            valid = (inside >= 0.0) & (sign * end >= 0.0)
            low, high = np.where(valid, np.minimum(low, end), low), np.where(valid, np.maximum(high, end), high)
    return low, high


def _mean(values: NDArray[np.float64]) -> Numbers:
    """Return the mean over the last axis. A single row is summed exactly, so the order of its values does not matter."""
    return math.fsum(values.tolist()) / values.size if values.ndim == 1 else values.mean(-1)
