"""The labelled windows of one batch, in slot order: logged episodes, rollouts and scores joined and checked.

A rollout row names its window: episode `task_id`, first step `offset`. Its label is the scaled return-to-go there. Nothing
may be missing: a window without a label, or with one that the data contradicts, would train the wrong thing.
Shapes: M windows of at most K steps, S numbers of state, A of action.
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

pc: Any = pyarrow.compute  # its functions are made at import, where a type checker cannot see them
TOLERANCE = 1e-6
"""Largest difference of a label from the data's return-to-go, relative to its size or 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """What the update learns from."""

    rows: Integers
    """[M] row of each window in the tables of rollouts and scores"""
    windows: Windows
    arms: tuple[str, ...]
    """Arm names, in name order."""
    arm: Integers
    """[M] index into `arms`"""
    label: Doubles
    """[M] scaled return-to-go of the first step"""
    beta: Doubles
    """[M] weight of the past policy in the action target"""
    delayed: np.ndarray[Any, np.dtype[np.bool_]]
    """[M] the return-to-go is the same at every step"""
    proposed: Singles
    """[P, A] the past policy's actions at every step of every window, in the environment's units; P = 0 without any"""
    first: Integers
    """[M] where each window's part of `proposed` begins"""

    @property
    def size(self) -> int:
        """Return M."""
        return len(self.label)


def join(
    batch: Batch, rollouts: Rollouts, scores: Scores, policy: Policy, data: Trajectories, steps: int, scale: float
) -> Labelled:
    """Return the batch's windows of at most `steps` steps. Labels are in units of `scale`.

    Raises `ContractError` for rollouts of another policy, windows outside of their episode, actions that do not fit, and
    beta > 0 without actions; `RewardError` for windows without a finite label and labels that the data contradicts.
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
            expected="the past policy's actions, of which a share goes into the targets",
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
    """Return the row of each slot's rollout, and the arm it was drawn from. Every slot has exactly one rollout."""
    slots = batch.table()
    slots = slots.take(pc.sort_indices(slots, sort_keys=[("slot", "ascending")]))
    found = pc.index_in(slots.column("group_id"), value_set=table.column("group_id").combine_chunks())
    lost = found.null_count
    if lost or table.num_rows != slots.num_rows:
        raise ContractError(
            expected=f"one rollout for each of {slots.num_rows} slots",
            found=f"{table.num_rows} rollouts, {lost} slots without one",
            where="rollouts:group_id",
            action="roll out the batch that was drawn, with curriculum.group_size=1",
        )
    return np.asarray(found.to_numpy(), dtype=np.int64), slots.column("arm").to_pylist()


def _check_policy(table: pa.Table, policy: Policy) -> None:
    actors, acting = set(table.column("policy").unique().to_pylist()), row_name(policy)
    if actors != {acting}:
        raise ContractError(
            expected=f"windows of the weights {acting}, those of policy {policy.digest}, from which this update starts",
            found=f"windows of {sorted(actors)[:3]}",
            where="rollouts:policy",
            action="roll out again: the past policy of a target is the one that the last iteration ended with",
        )


def component(scores: pa.Table, name: str, default: float | None) -> Doubles:
    """Return the named part of every reward, [M]. A row without it has `default`; None makes that a `RewardError`."""
    parts: Any = scores.column("components").combine_chunks()
    row = np.repeat(np.arange(len(parts)), np.diff(parts.offsets.to_numpy()))
    chosen = np.asarray(pc.equal(parts.keys, name).to_numpy(zero_copy_only=False), dtype=np.bool_)
    out = np.full(len(parts), np.nan if default is None else default)
    out[row[chosen]] = parts.items.to_numpy(zero_copy_only=False)[chosen]
    bad = np.flatnonzero(~(np.isfinite(out) & (out >= 0) & (out <= 1)))
    if len(bad):
        found = f"{out[bad[0]]} in row {int(bad[0])}"
        raise _unlabelled(f"a part '{name}' in [0, 1] of every reward", found, f"components.{name}")
    return out


def _labels(scores: pa.Table) -> Doubles:
    values: Doubles = np.asarray(scores.column("reward").to_numpy(), dtype=np.float64)  # empty becomes NaN
    lost = np.flatnonzero(~np.isfinite(values))
    if len(lost):
        status, reason = (scores.column(name)[int(lost[0])].as_py() for name in ("status", "reason"))
        raise _unlabelled("a finite label on every window", f"{len(lost)} without: {status} {reason}".strip(), "reward")
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
            expected=f"{int(lengths[row])} actions of {width} numbers, or no actions in any row",
            found=f"{int(sizes[row])} numbers in row {row}",
            where="rollouts:actions",
            action="roll out again with the window of this policy's architecture",
        )
    values = cells.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    return values, np.cumsum(lengths) - lengths


def _unlabelled(expected: str, found: str, column: str) -> RewardError:
    return RewardError(
        expected=expected, found=found, where=f"scores:{column}", action="label the rollouts again, from the same data"
    )
