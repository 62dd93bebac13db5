"""Joins logged episodes, rollouts and scores into the labelled windows of one batch, in slot order, and checks them.

A rollout row names its window: the episode `task_id` and the first step `offset`. The label of the window is the scaled
return-to-go at that step. A window without a label, or with a label that the data contradicts, would train the wrong thing, so
it is refused.
Shapes: M windows of at most K steps, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from instar.artifact import Batch, Policy, Rollouts, Scores
from instar.components.policy_io import row_name
from instar.components.trajectories import Doubles, Integers, Singles, Trajectories, Windows
from instar.errors import ContractError, RewardError

pc: Any = pyarrow.compute  # its functions are created at import, where a type checker cannot see them
TOLERANCE = 1e-6
"""Largest difference between a label and the data's return-to-go, relative to the return-to-go if that is above 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """The windows that the update learns from, with their labels."""

    rows: Integers
    """[M] row of each window in the tables of rollouts and scores"""
    windows: Windows
    arms: tuple[str, ...]
    """Names of the arms, sorted."""
    arm: Integers
    """[M] index into `arms`"""
    label: Doubles
    """[M] scaled return-to-go of the first step"""
    beta: Doubles
    """[M] weight of the past policy's action in the target"""
    delayed: np.ndarray[Any, np.dtype[np.bool_]]
    """[M] whether the return-to-go is the same at every step"""
    proposed: Singles
    """[P, A] the past policy's action at each step of each window, in the environment's units; P = 0 without actions"""
    first: Integers
    """[M] row of `proposed` where each window begins"""

    @property
    def size(self) -> int:
        """The number of windows, M."""
        return len(self.label)


def join(
    batch: Batch, rollouts: Rollouts, scores: Scores, policy: Policy, data: Trajectories, steps: int, scale: float
) -> Labelled:
    """Return the batch's windows of at most `steps` steps. Labels are in units of `scale`.

    Raises `ContractError` for rollouts of another policy, for windows outside of their episode, for actions that do not fit, and
    for beta > 0 without actions. Raises `RewardError` for a label that is missing, not finite, or contradicted by the data.
    """
    table, marks = rollouts.table(), scores.table()
    rows, names = _slots(batch, table)
    if not table.column("rollout_id").equals(marks.column("rollout_id")):
        raise _unlabelled(f"the {table.num_rows} rollouts in their order", "other rollout ids", "rollout_id")
    table, marks = table.take(rows), marks.take(rows)
    _check_policy(table, policy)
    episodes = data.find(table.column("task_id").to_pylist(), "rollouts:task_id")
    windows = data.windows(episodes, table.column("offset").to_numpy(), steps, "rollouts:offset")
    beta, delayed = component(marks, "beta", None), component(marks, "delayed", 0.0) != 0.0
    label = _labels(marks)
    _check_labels(data, windows, label, delayed, scale)
    proposed, first = _proposed(table, windows, data.actions.shape[1])
    if not len(proposed) and (beta > 0).any():
        raise ContractError(
            expected="the past policy's actions, because beta mixes them into the targets",
            found=f"beta {beta.max():g} and no actions",
            where="rollouts:actions",
            action="set rollout.act=true, or reward.schedule=none",
        )
    arms, arm = np.unique(np.asarray(names), return_inverse=True)
    return Labelled(
        rows=rows,
        windows=windows,
        arms=tuple(arms.tolist()),
        arm=arm.astype(np.int64),
        label=label,
        beta=beta,
        delayed=delayed,
        proposed=proposed,
        first=first,
    )


def _slots(batch: Batch, table: pa.Table) -> tuple[Integers, list[str]]:
    """Return the row of each slot's rollout and the slot's arm. Every slot must have exactly one rollout."""
    slots = batch.table()
    slots = slots.take(pc.sort_indices(slots, sort_keys=[("slot", "ascending")]))
    row_by_slot = pc.index_in(slots.column("group_id"), value_set=table.column("group_id").combine_chunks())
    lost = row_by_slot.null_count
    if lost or table.num_rows != slots.num_rows:
        raise ContractError(
            expected=f"one rollout for each of {slots.num_rows} slots",
            found=f"{table.num_rows} rollouts, {lost} slots without one",
            where="rollouts:group_id",
            action="roll out the batch that was drawn, with curriculum.group_size=1",
        )
    return np.asarray(row_by_slot.to_numpy(), dtype=np.int64), slots.column("arm").to_pylist()


def _check_policy(table: pa.Table, policy: Policy) -> None:
    actors, acting = set(table.column("policy").unique().to_pylist()), row_name(policy)
    if actors != {acting}:
        raise ContractError(
            expected=f"windows of the weights {acting}, which are those of policy {policy.digest} that this update trains",
            found=f"windows of {sorted(actors)[:3]}",
            where="rollouts:policy",
            action="roll out again with this policy: the past policy in a target must be the one that is trained",
        )


def component(scores: pa.Table, name: str, default: float | None) -> Doubles:
    """Return the named part of every reward, [M]. A row without it gets `default`. Without a default it is a `RewardError`."""
    parts: Any = scores.column("components").combine_chunks()
    row = np.repeat(np.arange(len(parts)), np.diff(parts.offsets.to_numpy()))
    chosen = np.asarray(pc.equal(parts.keys, name).to_numpy(zero_copy_only=False), dtype=np.bool_)
    out = np.full(len(parts), np.nan if default is None else default)
    out[row[chosen]] = parts.items.to_numpy(zero_copy_only=False)[chosen]
    bad = np.flatnonzero(~(np.isfinite(out) & (out >= 0) & (out <= 1)))
    if len(bad):
        value = f"{out[bad[0]]} in row {int(bad[0])}"
        raise _unlabelled(f"a part '{name}' in [0, 1] in every reward", value, f"components.{name}")
    return out


def _labels(scores: pa.Table) -> Doubles:
    values: Doubles = np.asarray(scores.column("reward").to_numpy(), dtype=np.float64)  # empty becomes NaN
    lost = np.flatnonzero(~np.isfinite(values))
    if len(lost):
        status, reason = (scores.column(name)[int(lost[0])].as_py() for name in ("status", "reason"))
        raise _unlabelled(
            "a finite label for every window", f"{len(lost)} without: {status} {reason}".strip(), "reward"
        )
    return values


def _check_labels(data: Trajectories, windows: Windows, label: Doubles, delayed: Any, scale: float) -> None:
    first = data.offsets[windows.episodes] + np.where(delayed, 0, windows.starts)
    expected = data.returns_to_go[first] / scale
    bad = np.flatnonzero(~(np.abs(label - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected))))
    if len(bad):
        row = int(bad[0])
        raise _unlabelled(
            f"{expected[row]:.9g}, the return-to-go of {data.ids[int(windows.episodes[row])]} "
            f"at step {int(windows.starts[row])} over {scale:g}",
            f"{label[row]:.9g} in row {row}",
            "reward",
        )


def _proposed(table: pa.Table, windows: Windows, width: int) -> tuple[Singles, Integers]:
    cells: Any = table.column("actions").combine_chunks()
    sizes = cells.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = windows.lengths
    wrong = np.flatnonzero(sizes != lengths * width) if sizes.any() else np.zeros(0, dtype=np.int64)
    if len(wrong):
        row = int(wrong[0])
        raise ContractError(
            expected=f"{int(lengths[row])} actions of {width} numbers each, or no actions in any row",
            found=f"{int(sizes[row])} numbers in row {row}",
            where="rollouts:actions",
            action="roll out again with the window length of this policy's architecture",
        )
    values = cells.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    return values, np.cumsum(lengths) - lengths


def _unlabelled(expected: str, found: str, column: str) -> RewardError:
    return RewardError(
        expected=expected, found=found, where=f"scores:{column}", action="label the rollouts again, from the same data"
    )
