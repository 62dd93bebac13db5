"""One advantage for each rollout, from the rewards of its group or batch, in float64.

    method        baseline, scale        A_i
    REINFORCE     batch, none            r_i - mean(batch)
    RLOO          loo, none              r_i - mean of the others = n / (n - 1) (r_i - mean(group))
    GRPO          group, group_std       (r_i - mean(group)) / (std(group) + eps)
    Dr. GRPO      group, none            r_i - mean(group)

If all rewards of a group are equal, its advantages are exactly 0. Equal means that the largest and the smallest value are
the same number. The standard deviation cannot tell: of eight times 0.1 it is not 0 in floating point, and rounding noise
divided by it is as large as a signal.
Shapes: N rollouts, G groups. Every rollout here has a score; those without one were left out before.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from instar.errors import RewardError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def group_sum(values: Floats, group: Ints, num_groups: int) -> Floats:
    """Return the sum per group, [G]."""
    return np.bincount(group, weights=values, minlength=num_groups).astype(np.float64)


def zero_variance(values: Floats, group: Ints, num_groups: int) -> Bools:
    """Return per group whether all its values are equal, [G]. Empty groups count as constant."""
    low, high = np.full(num_groups, np.inf), np.full(num_groups, -np.inf)
    np.minimum.at(low, group, values)
    np.maximum.at(high, group, values)
    return low >= high


def centred(values: Floats, group: Ints, num_groups: int) -> Floats:
    """Return value minus group mean, [N]; exactly 0 in constant groups."""
    count = np.maximum(np.bincount(group, minlength=num_groups), 1)
    out = values - (group_sum(values, group, num_groups) / count)[group]
    out[zero_variance(values, group, num_groups)[group]] = 0.0
    return out


def group_std(values: Floats, group: Ints, num_groups: int) -> Floats:
    """Return the unbiased standard deviation per group, [G]; exactly 0 in constant groups."""
    count = np.bincount(group, minlength=num_groups)
    squares = group_sum(centred(values, group, num_groups) ** 2, group, num_groups)
    return np.asarray(np.sqrt(squares / np.maximum(count - 1, 1)), dtype=np.float64)


def advantages(
    values: Floats,
    group: Ints,
    num_groups: int,
    *,
    baseline: Literal["none", "batch", "group", "loo"],
    scale: Literal["none", "group_std", "batch_std", "whiten"],
    eps: float,
    lengths: Ints | None = None,
) -> Floats:
    """Return A [N] for rewards `values` [N] of rollouts in groups `group` [N].

    `whiten` subtracts the mean over the batch's tokens and divides by their standard deviation, so it needs `lengths` [N].
    With a group baseline, groups without variance stay 0, and a group of one raises `RewardError`.
    """
    if baseline == "none":
        a = values.copy()
    elif baseline == "batch":
        a = centred(values, np.zeros_like(group), 1)
    else:
        count = np.bincount(group, minlength=num_groups)
        _need_pairs(count)
        a = centred(values, group, num_groups)
        if baseline == "loo":
            a = a * (count / np.maximum(count - 1, 1))[group]
    if scale == "group_std":
        a = a / (group_std(values, group, num_groups) + eps)[group]
    elif scale == "batch_std":
        a = a / (group_std(values, np.zeros_like(group), 1)[0] + eps)
    elif scale == "whiten":
        assert lengths is not None
        constant = zero_variance(values, group, num_groups)[group] & (baseline in ("group", "loo"))
        a = np.where(constant, 0.0, whiten(a, lengths.astype(np.float64), eps))
    return a


def whiten(values: Floats, weights: Floats, eps: float) -> Floats:
    """Return (value - mean) / (std + eps); exactly 0 when all values are equal. Mean and std are weighted and unbiased."""
    total = weights.sum()
    if values.size == 0 or values.min() == values.max() or total <= 1:
        return np.zeros_like(values)
    shifted = values - (weights * values).sum() / total
    std = np.sqrt((weights * shifted**2).sum() / (total - 1))
    return np.asarray(shifted / (std + eps), dtype=np.float64)


def _need_pairs(count: Ints) -> None:
    small = int((count == 1).sum())
    if small:
        raise RewardError(
            expected="at least 2 scored rollouts in each group",
            found=f"{small} groups of one",
            where="update.baseline",
            action="sample larger groups, or set update.baseline=none, batch or critic",
        )
