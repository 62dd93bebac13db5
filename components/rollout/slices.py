"""How drawn slices become windows of logged episodes, and how windows become rollout rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from instar import schema
from instar.artifact import Tasks
from instar.components.task_table import resident_table
from instar.components.trajectories import Integers, Singles, Trajectories, Windows
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import BatchRow, RolloutRow

pc: Any = pyarrow.compute  # its functions are made at import, where a type checker cannot see them
Slice = tuple[str, int, int]
"""An episode, the first step at which a window may begin, and the step after the last such step."""


def choose_windows(
    tasks: Tasks, slots: Sequence[BatchRow], seeds: Integers, logged: Trajectories, steps: int, ctx: Context
) -> Windows:
    """Return the window of every slot. It begins at step first + seed mod (end - first) of its slice.

    Raises `ContractError` for a slot whose task is not a training slice of `logged`.
    """
    known = _slices(tasks, slots, ctx)
    drawn = [known[slot.task_id] for slot in slots]
    where = f"Tasks {tasks.digest}:features"
    episodes = logged.find([episode for episode, _, _ in drawn], where)
    first, end = (np.array([bounds[i] for bounds in drawn], np.int64) for i in (1, 2))
    return logged.windows(episodes, first + seeds % (end - first), steps, where)


def _slices(tasks: Tasks, slots: Sequence[BatchRow], ctx: Context) -> dict[str, Slice]:
    """Return the slices of the drawn tasks by task id."""
    table = resident_table(tasks, ctx.resident)
    wanted = pa.array(sorted({slot.task_id for slot in slots}), pa.string())
    table = table.filter(pc.field("task_id").isin(wanted))
    names, arms, pools, texts = (table.column(n).to_pylist() for n in ("task_id", "arm", "split", "features"))
    arm_of = dict(zip(names, arms, strict=True))
    for slot in slots:
        if arm_of.get(slot.task_id) != slot.arm or slot.group_size != 1:
            task = f"a task of arm {arm_of[slot.task_id]}" if slot.task_id in arm_of else "no such task"
            raise ContractError(
                expected=f"task {slot.task_id} of arm {slot.arm}, once, because the policy acts deterministically",
                found=f"{task}, group_size {slot.group_size}",
                where=f"batch slot {slot.slot}",
                action="draw from the task pools that the rollout reads, with curriculum.group_size=1",
            )
    return {name: _slice(name, pool, text) for name, pool, text in zip(names, pools, texts, strict=True)}


def _slice(name: str, pool: str, text: str) -> Slice:
    try:
        values = json.loads(text)
        episode, start, end = str(values["episode"]), int(values["start"]), int(values["end"])
    except (ValueError, KeyError, TypeError):
        episode, start, end = "", 0, 0
    if pool != "train" or not 0 <= start < end:
        raise ContractError(
            expected='a training slice with features {"episode": ..., "start": s, "end": e} and 0 <= s < e',
            found=f"split {pool}, features {text[:80]}",
            where=f"Tasks:features of {name}",
            action="prepare the data with dataset_prep.strategy=offline",
        )
    return episode, start, end


def to_table(
    slots: Sequence[BatchRow],
    seeds: Integers,
    logged: Trajectories,
    windows: Windows,
    actions: Singles | None,
    policy: str,
) -> pa.Table:
    """Return one `RolloutRow` per slot, built column by column. `task_id` is the episode, as in the row that logged it.

    The padding of `actions` [M, K, A] is left out. None leaves the column empty.
    """
    count = len(slots)
    values_by_column: dict[str, Any] = {
        "rollout_id": [f"{slot.group_id}/0" for slot in slots],
        "task_id": [logged.ids[episode] for episode in windows.episodes.tolist()],
        "arm": [slot.arm for slot in slots],
        "kind": ["continuous"] * count,
        "group_id": [slot.group_id for slot in slots],
        "policy": [policy] * count,
        "truncated": np.zeros(count, np.bool_),
        "seed": seeds,
        "offset": windows.starts,
    }
    declared = {field.name: field.arrow for field in schema.fields(RolloutRow)}
    columns = {name: pa.array(values, declared[name]) for name, values in values_by_column.items()}
    if actions is not None:
        ends = np.concatenate([[0], np.cumsum(windows.lengths * actions.shape[2])]).astype(np.int32)
        numbers = pa.array(actions[windows.mask].astype(np.float64).ravel())
        columns["actions"] = pa.ListArray.from_arrays(pa.array(ends), numbers)
    nothing = pa.array(np.zeros(count + 1, np.int32))
    for name in declared.keys() - columns.keys():
        columns[name] = pa.ListArray.from_arrays(nothing, pa.array([], declared[name].value_type))
    return pa.Table.from_arrays([columns[name] for name in declared], schema=schema.arrow_schema(RolloutRow))
