"""The task pools as a table that is read and checked once per process, and the few tasks of a batch from it."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from instar import schema
from instar.artifact import Tasks
from instar.resident import Kind, Resident
from instar.rows import TaskRow

TABLE: Kind[pa.Table] = Kind("task-table", newest=2)
"""Two, because an evolution has prepared tasks and tasks of its own making."""


def resident_table(tasks: Tasks, resident: Resident) -> pa.Table:
    """Return the checked table of `tasks`, which stays resident."""
    table = resident.get(TABLE, tasks.digest)
    if table is None:
        table = tasks.table()
        if tasks.digest:
            resident.put(TABLE, tasks, table)
    return table


def lookup(tasks: Tasks, task_ids: Collection[str], resident: Resident) -> dict[str, TaskRow]:
    """Return the rows of `task_ids` by id; ids that the pool lacks are left out."""
    table = resident_table(tasks, resident)
    wanted = table.filter(pc.field("task_id").isin(pa.array(sorted(task_ids), pa.string())))
    return {row.task_id: row for row in schema.from_table(TaskRow, wanted)}
