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
    """Return the checked table of `tasks`, kept in `resident` under its digest; only the newest two are kept.

    Two, because an evolution has prepared tasks and tasks of its own making.
    """
    if not tasks.digest:
        return tasks.table()
    kept: dict[str, pa.Table] = resident.setdefault("task-tables", {})
    table = kept.pop(tasks.digest) if tasks.digest in kept else tasks.table()
    kept[tasks.digest] = table
    if len(kept) > 2:
        del kept[next(iter(kept))]
    return table


def lookup(tasks: Tasks, task_ids: Collection[str], resident: dict[Any, Any]) -> dict[str, TaskRow]:
    """Return the rows of `task_ids` by id; ids that the pool lacks are left out."""
    table = resident_table(tasks, resident)
    wanted = table.filter(pc.field("task_id").isin(pa.array(sorted(task_ids), pa.string())))
    return {row.task_id: row for row in schema.from_table(TaskRow, wanted)}
