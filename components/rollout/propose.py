"""Windows of logged trajectories, with the action that the policy would have taken at each step.

A drawn task is a slice: the steps `start` to `end` - 1 of one logged episode, at each of which a window may begin. The seed of the
slot picks one of these steps. The window holds the K steps from there that the architecture reads, or fewer at the end of the
episode. The policy reads the logged window and gives its own action for every step (the past policy of Decision Mamba, section 4).
No environment takes a step, and the logged data is not copied into the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from instar.artifact import Policy, Rollouts, Tasks
from instar.components.continuous.actor import check_fits, filled, open_actor
from instar.components.policy_io import row_name
from instar.components.rollout.slices import choose_windows, to_table
from instar.components.trajectories import Flags, Integers, Singles, Trajectories, Windows, open_trajectories
from instar.contract import PERF, Context, Metrics
from instar.errors import NumericsError
from instar.rows import BatchRow

if TYPE_CHECKING:
    from instar.components.continuous.model import ContinuousPolicy
    from instar.components.rollout.config import ProposeConfig


def propose(
    policy: Policy,
    tasks: Tasks,
    slots: Sequence[BatchRow],
    data: Rollouts | None,
    rollouts: Rollouts,
    config: ProposeConfig,
    ctx: Context,
) -> Metrics:
    """Write one window per slot, with the policy's actions unless `config.act` is off.

    The metrics are counts and `shift_mean`, the mean of |a_hat - a| over all numbers of all actions. It is in the model's units, in
    which every action is in [-1, 1]. Raises `ContractError` without data, for a task that is not a training slice of that data,
    and for a policy with other dimensions. Raises `NumericsError` for actions that are not finite.
    """
    model = open_actor(policy, config.device, ctx, "rollout")
    logged = open_trajectories(data, ctx.resident, "rollout")
    check_fits(model, logged, "rollout")
    seeds = np.array([ctx.seed(slot.group_id) for slot in slots], np.int64)
    windows = choose_windows(tasks, slots, seeds, logged, model.arch.window, ctx)
    start = time.perf_counter()
    actions = act(model, logged, windows, config, ctx) if config.act else None
    seconds = time.perf_counter() - start
    rollouts.write_table(to_table(slots, seeds, logged, windows, actions, row_name(policy)))
    metrics = describe(windows)
    if actions is not None and slots:
        metrics["shift_mean"] = shift(model, logged, windows, actions)
        metrics[f"{PERF}windows_per_s"] = len(slots) / seconds
    return metrics


def act(
    model: ContinuousPolicy, logged: Trajectories, windows: Windows, config: ProposeConfig, ctx: Context
) -> Singles:
    """Return the policy's actions at every step of every window, [M, K, A], in the units of the environment. Padding gets 0.

    A pass has about `config.max_windows` windows at most. The actions of a window must not depend on the other windows, not even by
    rounding. So windows without padding have passes of their own, because the policy computes them differently. And every pass has
    a multiple of `actor.ROWS` rows.
    """
    import torch

    out = np.zeros((*windows.rows.shape, model.task.action_dim), np.float32)
    conditions = logged.conditions(windows, model.task.return_scale, config.delayed)
    done = 0
    for rows, count in batches(windows.lengths == windows.mask.shape[1], config.max_windows):
        steps, mask = windows.rows[rows], windows.mask[rows]
        inputs = (logged.observations[steps], logged.actions[steps], conditions[rows], windows.timesteps[rows], mask)
        with torch.no_grad():
            predicted = model(*(torch.from_numpy(value).to(model.device) for value in inputs)).actions
            acted = model.units.to_box(predicted).cpu().numpy()
        out[rows] = np.where(mask[:, :, None], acted, 0.0)
        done += count
        ctx.heartbeat(f"{done} windows", {})
    if not np.isfinite(out).all():
        raise NumericsError(
            expected="finite actions",
            found=f"{int((~np.isfinite(out)).sum())} numbers that are not finite",
            where="rollout.policy",
            action="go back to an earlier policy, because the weights of this one have diverged",
        )
    return out


def batches(full: Flags, most: int) -> Iterator[tuple[Integers, int]]:
    """Yield the indices of one pass, and how many of them count. Windows that `full` marks come first, then the others.

    The indices behind those that count are repetitions, which fill the pass up to a multiple of `actor.ROWS`.
    """
    for part in (np.flatnonzero(full), np.flatnonzero(~full)):
        for start in range(0, len(part), most):
            rows = part[start : start + most]
            yield np.concatenate([rows, np.repeat(rows[:1], filled(len(rows)) - len(rows))]), len(rows)


def describe(windows: Windows) -> Metrics:
    """Return counts, and the share of windows that are short because their episode ends."""
    count = len(windows.rows)
    metrics: Metrics = {"num_rollouts": float(count), "num_steps": float(windows.mask.sum())}
    if count:
        metrics["short_share"] = float((windows.lengths < windows.rows.shape[1]).mean())
    return metrics


def shift(model: ContinuousPolicy, logged: Trajectories, windows: Windows, actions: Singles) -> float:
    """Return the mean of |a_hat - a| over all numbers, in the model's units."""
    half = (np.array(model.task.action_high) - np.array(model.task.action_low)) / 2
    gap = np.abs(actions[windows.mask] - logged.actions[windows.rows[windows.mask]].astype(np.float64)) / half
    return float(gap.mean())
