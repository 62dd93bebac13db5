"""Labels of logged windows in hindsight: the return-to-go, and the weight of the past policy in the action target.

The label is the return-to-go at the first step of the window, without discount and divided by the policy's `return_scale`. The
column `components` holds what the update needs to build its targets (Decision Mamba section 4):

- `beta` is the weight of the past policy's actions, which the rollout recorded.
- `delayed` says whether the whole return is paid at the end of the episode.
- `shift` is how far the past policy's actions are from the logged ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from instar import schema
from instar.artifact import Policy, Rollouts, Scores
from instar.components.continuous.config import ContinuousTask
from instar.components.trajectories import Doubles, Integers, Trajectories, Windows, open_trajectories
from instar.config import from_dict
from instar.contract import Context, Metrics
from instar.errors import ConfigError, ContractError, RewardError
from instar.rows import ScoreRow

if TYPE_CHECKING:
    from instar.components.reward.config import RefineConfig

SCORER = "return-to-go/1"


def refine(
    rollouts: Rollouts, policy: Policy, data: Rollouts | None, scores: Scores, config: RefineConfig, ctx: Context
) -> Metrics:
    """Write one label per window. beta is that of iteration `ctx.step` + 1.

    The metrics are `beta`, `return_mean` and `shift_mean`. `return_mean` is the mean label, without the scale. `shift_mean` is
    the mean of |a_hat - a| over all numbers of all actions, in the model's units, in which every action is in [-1, 1]. Raises
    `RewardError` without windows. Raises `ContractError` for a window outside its episode, for actions that do not fit their
    window, and for beta > 0 without actions.
    """
    task, steps = stored_task(policy)
    logged = open_trajectories(data, ctx.resident, "reward")
    table = rollouts.table()
    if not table.num_rows:
        raise RewardError(expected="rollouts", found="none", where="reward.rollouts", action="check the rollout stage")
    windows = labelled_windows(table, logged, steps)
    label = returns(logged, windows, config.delayed) / task.return_scale
    shifts, total = shift(table, logged, windows, task)
    beta = config.beta(ctx.step + 1)
    if beta > 0 and shifts is None:
        raise ContractError(
            expected=f"the past policy's actions, whose weight in the targets is {beta:g}",
            found="none",
            where="rollouts:actions",
            action="set rollout.act=true, or reward.schedule=none",
        )
    scores.write_table(to_table(table, label, beta, config.delayed, shifts))
    metrics = {"num_rollouts": float(len(label)), "beta": beta, "return_mean": float(label.mean() * task.return_scale)}
    return metrics if shifts is None else metrics | {"shift_mean": total}


def stored_task(policy: Policy) -> tuple[ContinuousTask, int]:
    """Return the task that the policy acts in, and the number of steps of its windows. Only `config.json` is read."""
    record = policy.read_json("config.json")
    try:
        task: ContinuousTask = from_dict(ContinuousTask, record["task"], "config.json:task")
        return task, int(record["arch"]["window"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ContractError(
            expected="a continuous-control policy",
            found=f"model_type {record.get('model_type')}: {error}",
            where=f"reward.policy {policy.digest}",
            action="prepare the policy with dataset_prep.strategy=offline",
        ) from error


def labelled_windows(table: pa.Table, logged: Trajectories, steps: int) -> Windows:
    """Return the windows that rollout rows name by episode (`task_id`) and first step (`offset`)."""
    kinds = set(table.column("kind").unique().to_pylist())
    if kinds != {"continuous"}:
        raise ContractError(
            expected="windows of logged trajectories, which have kind 'continuous'",
            found=f"kinds {sorted(kinds)}",
            where="rollouts:kind",
            action="set rollout.strategy=propose, or choose another reward.strategy",
        )
    episodes = logged.find(table.column("task_id").to_pylist(), "rollouts:task_id")
    return logged.windows(episodes, table.column("offset").to_numpy(), steps, "rollouts:offset")


def returns(logged: Trajectories, windows: Windows, delayed: bool) -> Doubles:
    """Return the return-to-go [M] at the first step of every window, without the scale. With `delayed` it is the whole return."""
    begin = logged.offsets[windows.episodes]
    return logged.returns_to_go[begin if delayed else begin + windows.starts]


def shift(
    table: pa.Table, logged: Trajectories, windows: Windows, task: ContinuousTask
) -> tuple[Doubles | None, float]:
    """Return the mean of |a_hat - a| for every window, and over all steps, in the model's units. None without actions.

    Raises `ContractError` when only some rows have actions, and when a row has another number of actions than steps.
    """
    cells = table.column("actions").combine_chunks()
    sizes = cells.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    if not sizes.any():
        return None, 0.0
    lengths = windows.lengths
    wrong = np.flatnonzero(sizes != lengths * task.action_dim)
    if len(wrong):
        row = int(wrong[0])
        raise ContractError(
            expected=f"{int(lengths[row])} actions of {task.action_dim} numbers in every row, or no actions at all",
            found=f"{int(sizes[row])} numbers in row {row}",
            where="rollouts:actions",
            action="run the rollout again with the policy that the reward reads",
        )
    half = (np.array(task.action_high) - np.array(task.action_low)) / 2
    proposed = cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, task.action_dim)
    gap = (np.abs(proposed - logged.actions[windows.rows[windows.mask]]) / half).mean(axis=1)
    starts: Integers = np.cumsum(lengths) - lengths
    return np.add.reduceat(gap, starts) / lengths, float(gap.mean())


def to_table(table: pa.Table, label: Doubles, beta: float, delayed: bool, shifts: Doubles | None) -> pa.Table:
    """Return one `ScoreRow` per rollout, in their order. The table is built column by column."""
    count = len(label)
    parts = {"beta": np.full(count, beta), "delayed": np.full(count, float(delayed))}
    if shifts is not None:
        parts["shift"] = shifts
    names = pa.array(list(parts) * count, pa.string())
    values = pa.array(np.stack(list(parts.values()), axis=1).ravel())
    ends = pa.array(np.arange(count + 1, dtype=np.int32) * len(parts))
    columns: dict[str, Any] = {
        "rollout_id": table.column("rollout_id").combine_chunks(),
        "correct": pa.nulls(count, pa.float64()),
        "format_ok": pa.nulls(count, pa.float64()),
        "reward": pa.array(label),
        "components": pa.MapArray.from_arrays(ends, names, values),
        "status": pa.array(["scored"] * count),
        "reason": pa.array([""] * count),
        "scorer": pa.array([SCORER] * count),
    }
    declared = schema.fields(ScoreRow)
    return pa.Table.from_arrays([columns[f.name] for f in declared], schema=schema.arrow_schema(ScoreRow))
