"""Intervals without distributional assumptions: a bootstrap over tasks, stratified by arm.

The statistic is the mean over arms of the mean over tasks, so a large arm weighs no more than a small one. Pairing is
the caller's: given per-task differences of two policies, the interval is that of the paired difference. A resample of
n values depends only on how often each distinct value comes up, so it is one multinomial draw per arm; accuracies of
T samples have at most 2T+1 distinct differences. Resampling n of n understates the variance by (n-1)/n; deviations
are scaled back. Shapes: K arms, n_k tasks of arm k, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from instar.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with a percentile interval, and the two-sided p-value of the estimate being 0."""

    estimate: float
    low: float
    high: float
    p: float


def stratified_mean(
    values: Sequence[NDArray[np.float64]], resamples: int, confidence: float, generator: np.random.Generator
) -> Interval:
    """Return the interval of the mean over arms; `values` holds one array [n_k] per arm, n_k >= 2.

    An arm with one task has no measurable spread: `ContractError`, not an interval that is too narrow.
    """
    if not values or min(v.size for v in values) < 2:
        raise ContractError(
            expected="at least two tasks in every arm",
            found=f"{[int(v.size) for v in values]}",
            where="evaluate.bootstrap",
            action="raise evaluate.tasks_per_arm or the pool sizes",
        )
    estimate, means = 0.0, np.zeros(resamples)
    for arm in values:
        distinct, counts = np.unique(arm, return_counts=True)
        centre = math.fsum(arm.tolist()) / arm.size
        drawn = generator.multinomial(arm.size, counts / arm.size, size=resamples) @ distinct / arm.size
        scale = math.sqrt(arm.size / (arm.size - 1))
        means += (centre + scale * (drawn - centre)) / len(values)
        estimate += centre / len(values)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    rounding = 1e-12
    below, above = int((means <= rounding).sum()), int((means >= -rounding).sum())
    p = min(1.0, 2.0 * (min(below, above) + 1) / (resamples + 1))
    return Interval(estimate=estimate, low=float(low), high=float(high), p=p)


def wilson(mean: float, count: int, confidence: float) -> tuple[float, float]:
    """Return the Wilson interval of a share among `count` tasks.

    Exact in form for one 0/1 answer per task; for means of several answers it is conservative, because such means vary
    less than 0/1 values. Never empty at 0 or 1, where a bootstrap collapses to a point.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    shrink = 1.0 + z * z / count
    centre = (mean + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(max(0.0, mean * (1.0 - mean)) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
