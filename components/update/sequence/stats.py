"""What one update saw of each arm. Counts and labels are of all windows. Losses are of the probed windows, scaled to all."""

from __future__ import annotations

import numpy as np

from instar.components.trajectories import Doubles, Integers
from instar.components.update.sequence.batch import Labelled
from instar.rows import ArmStatsRow


def arm_stats(batch: Labelled, rows: Integers, before: Doubles, after: Doubles) -> list[ArmStatsRow]:
    """Return one row per arm, in name order.

    `before` and `after` [P] are the losses of the windows `rows` [P] with this update's targets. The sum of an arm is its mean
    over probed windows times its number of windows. Columns that have no meaning in supervised learning stay empty.
    """
    num = len(batch.arms)
    windows = np.bincount(batch.arm, minlength=num)
    probed = np.bincount(batch.arm[rows], minlength=num)

    def total(values: Doubles) -> Doubles:
        """Return the sum for each arm of a number that every window has."""
        return np.bincount(batch.arm, weights=values, minlength=num).astype(np.float64)

    def scaled(values: Doubles) -> Doubles:
        """Return the sum for each arm, scaled from its probed windows to all its windows."""
        sums = np.bincount(batch.arm[rows], weights=values, minlength=num)
        return np.asarray(sums / probed * windows, dtype=np.float64)

    labels, steps = total(batch.label), total(batch.windows.lengths.astype(np.float64))
    loss, change = scaled(before), scaled(before - after)
    return [
        ArmStatsRow(
            arm=name,
            num_prompts=int(windows[i]),
            num_rollouts=int(windows[i]),
            num_invalid=0,
            sum_correct=None,
            sum_reward=float(labels[i]),
            sum_abs_advantage=None,
            sum_abs_advantage_correct=None,
            sum_abs_centred=None,
            sum_abs_centred_correct=None,
            num_zero_variance=0,
            num_all_right=0,
            num_all_wrong=0,
            num_kept=int(windows[i]),
            num_truncated=0,
            sum_tokens=int(steps[i]),
            sum_loss=float(loss[i]),
            sum_loss_change=float(change[i]),
        )
        for i, name in enumerate(batch.arms)
    ]
