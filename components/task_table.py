"""The task pools as a table that is read and checked once per process, and the few tasks of a batch from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instar import schema
from instar.artifact import Tasks
from instar.rows import TaskRow


def resident_table(tasks: Tasks, resident: dict[Any, Any]) -> pa.Table:
    """Return the checked table of `tasks`, kept in `resident` under its digest; only the newest pool is kept."""
    if not tasks.digest:
        return tasks.table()
    kept = resident.get("task-table")
    if kept is None or kept[0] != tasks.digest:
        kept = resident["task-table"] = (tasks.digest, tasks.table())
    table: pa.Table = kept[1]
    return table


def lookup(tasks: Tasks, task_ids: Collection[str], resident: dict[Any, Any]) -> dict[str, TaskRow]:
    """Return the rows of `task_ids` by id; ids that the pool lacks are left out."""
    table = resident_table(tasks, resident)
    wanted = table.filter(pc.field("task_id").isin(pa.array(sorted(task_ids), pa.string())))
    return {row.task_id: row for row in schema.from_table(TaskRow, wanted)}
