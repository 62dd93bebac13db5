"""What one update saw of each arm. The curriculum learns from it.

Groups that the filter leaves out are counted too. Otherwise a curriculum would not see the arms that are too easy or too hard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.update.advantages import Bools, Floats, advantages, centred, zero_variance
from instar.components.update.update_batch import UpdateBatch
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


def arm_stats(
    config: PolicyGradientConfig, data: UpdateBatch, abs_advantage: Floats, trained_groups: Bools
) -> list[ArmStatsRow]:
    """Return one row per arm of the batch, in name order.

    Sums run over valid rollouts: scored ones, in groups with at least `min_group` scores. `num_invalid` counts the rollouts
    that were asked for and have no score. Lost rollouts are among them. `abs_advantage` [N] is the mean of |A| over a rollout's
    tokens. `trained_groups` [G] are the groups that the filter left.
    """
    rows = np.flatnonzero(data.valid)
    group, num = data.group[rows], data.num_groups
    correct, reward = data.correct[rows], data.reward[rows]
    by_correct = np.zeros_like(correct)
    if config.min_group >= 2:
        by_correct = advantages(correct, group, num, baseline="group", scale="group_std", eps=config.eps)
    arm = data.group_arm[group]
    filled = np.bincount(group, minlength=num) > 0
    constant = zero_variance(correct, group, num) & filled
    right = np.bincount(group, weights=correct, minlength=num) / np.maximum(np.bincount(group, minlength=num), 1)
    scored = np.bincount(data.group[data.scored], minlength=num)

    def total(values: Floats) -> Floats:
        return np.bincount(arm, weights=values, minlength=len(data.arms)).astype(np.float64)

    def groups(mask: Bools) -> Floats:
        return np.bincount(data.group_arm[mask], minlength=len(data.arms)).astype(np.float64)

    invalid = np.bincount(data.group_arm, weights=data.group_size - scored, minlength=len(data.arms))
    integers = {
        "num_prompts": groups(np.ones(num, dtype=np.bool_)),
        "num_rollouts": total(np.ones_like(reward)),
        "num_invalid": invalid,
        "num_zero_variance": groups(zero_variance(reward, group, num) & filled),
        "num_all_right": groups(constant & (right == 1.0)),
        "num_all_wrong": groups(constant & (right == 0.0)),
        "num_kept": groups(trained_groups),
        "num_truncated": total(data.truncated[rows].astype(np.float64)),
        "sum_tokens": total(data.lengths[rows].astype(np.float64)),
    }
    floats = {
        "sum_correct": total(correct),
        "sum_reward": total(reward),
        "sum_abs_advantage": total(abs_advantage[rows]),
        "sum_abs_advantage_correct": total(np.abs(by_correct)),
        "sum_abs_centred": total(np.abs(centred(reward, group, num))),
        "sum_abs_centred_correct": total(np.abs(centred(correct, group, num))),
    }
    out = []
    for i, name in enumerate(data.arms):
        values: dict[str, Any] = {key: int(column[i]) for key, column in integers.items()}
        values |= {key: float(column[i]) for key, column in floats.items()}
        out.append(ArmStatsRow(arm=name, **values))
    return out
