"""Look up the few tasks of a batch in a pool of many, reading and checking the pool once per process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instar import schema
from instar.artifact import Tasks
from instar.rows import TaskRow


def lookup(tasks: Tasks, task_ids: Collection[str], resident: dict[str, Any]) -> dict[str, TaskRow]:
    """Return the rows of `task_ids` by id; ids that the pool lacks are left out. The table stays resident by digest."""
    key = f"reward/tasks/{tasks.digest or tasks.path}"
    table = resident.get(key)
    if table is None:
        table = resident[key] = tasks.table()
    wanted = table.filter(pc.field("task_id").isin(pa.array(sorted(task_ids), pa.string())))
    return {row.task_id: row for row in schema.from_table(TaskRow, wanted)}
