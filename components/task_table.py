"""The task pools of a stage, as tables. A table is read and checked once per process, and the tasks of a batch are looked up in it.

A stage may get several pools: the tasks that were prepared, and those that the evolution made itself. A task id belongs to one
pool.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from instar import contract, schema
from instar.artifact import Tasks
from instar.errors import ContractError
from instar.resident import Kind, Resident
from instar.rows import TaskRow

PREPARED = "tasks"
"""Name of the port of the pool that dataset_prep made."""


def pools_of(ins: Any) -> dict[str, Tasks]:
    """Return the task pools among the inputs of a stage, by the name of their port."""
    return {name: artifact for name, artifact in contract.artifacts(ins).items() if isinstance(artifact, Tasks)}


def digests(pools: Mapping[str, Tasks]) -> str:
    """Return the digests of `pools` as a text for errors."""
    return ", ".join(pool.digest for pool in pools.values())


def resident_table(tasks: Tasks, resident: Resident, port: str = PREPARED) -> pa.Table:
    """Return the checked table of `tasks`. The newest table of every port stays resident."""
    kind: Kind[pa.Table] = Kind(f"task-table/{port}", newest=1)
    table = resident.get(kind, tasks.digest)
    if table is None:
        table = tasks.table()
        if tasks.digest:
            resident.put(kind, tasks, table)
    return table


def resident_tables(pools: Mapping[str, Tasks], resident: Resident) -> pa.Table:
    """Return the checked tables of all `pools` as one table, in their order.

    Raises `ContractError` for a task id that two pools have, because nothing would say which of the two tasks was tried.
    """
    tables = {port: resident_table(pool, resident, port) for port, pool in pools.items()}
    for (port, table), (other, second) in itertools.combinations(tables.items(), 2):
        doubled = second.filter(pc.field("task_id").isin(table.column("task_id").combine_chunks())).column("task_id")
        if len(doubled):
            raise ContractError(
                expected="task ids that only one pool has",
                found=f"'{doubled[0]}' in both {port} and {other}, the first of {len(doubled)} such ids",
                where="Tasks:task_id",
                action="give the tasks that the evolution makes ids of their own",
            )
    return pa.concat_tables(tables.values())


def lookup(pools: Mapping[str, Tasks], task_ids: Collection[str], resident: Resident) -> dict[str, TaskRow]:
    """Return the rows of `task_ids` by id. Ids that no pool has are left out."""
    wanted = pc.field("task_id").isin(pa.array(sorted(task_ids), pa.string()))
    rows = schema.from_table(TaskRow, resident_tables(pools, resident).filter(wanted))
    return {row.task_id: row for row in rows}
