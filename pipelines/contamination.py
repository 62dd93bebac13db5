"""Chooses the tasks on which two policies can be compared: tasks of one evolution that the other policy was not trained on.

The pools of one evolution are disjoint. The pools of two evolutions are not, for example if they have two seeds. Then one
evolution may test on tasks that the other one trained on.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from instar.artifact import Tasks
from instar.components.generated.anchors import SPLIT
from instar.components.generated.item import origin
from instar.errors import ContractError
from instar.manifest import manifest_of
from instar.rows import TaskRow


def unseen(pools: Tasks, other: Tasks | None, splits: tuple[str, ...], folder: Path) -> tuple[Tasks, int]:
    """Return `pools` without tasks from the training pool of `other`, and the number of tasks of `splits` that were left out.

    Two tasks are equal if prompt and reference are equal. Anchors that were made from a task that is left out are left out too. If
    fewer than two tasks of an arm are left in a split, the whole arm is left out there, because it has no interval. Raises
    `ContractError` if a split has no task left.
    """
    if other is None or other.digest == pools.digest:
        return pools, 0
    trained = {row.content_hash for row in other.read() if row.split == "train"}
    rows = pools.read()
    taught = {row.task_id for row in rows if row.split != "train" and row.content_hash in trained}
    if not taught:
        return pools, 0
    asked = [row for row in rows if row.split in splits]
    left = Counter((row.split, row.arm) for row in asked if row.task_id not in taught)
    taught |= {row.task_id for row in asked if left[row.split, row.arm] < 2}
    remaining = [row for row in rows if (origin(row).parent if row.split == SPLIT else row.task_id) not in taught]
    empty = sorted({row.split for row in asked} - {row.split for row in remaining})
    if empty:
        raise ContractError(
            expected=f"tasks of splits {list(splits)} that both policies were not trained on",
            found=f"none of {empty}",
            where="the pools of two evolutions",
            action="compare evolutions of one seed, or name policy folders and a suite with another --seed",
        )
    return _written(remaining, folder), sum(row.task_id in taught for row in asked)


def _written(rows: list[TaskRow], folder: Path) -> Tasks:
    folder.mkdir(parents=True)
    tasks = Tasks(folder)
    tasks.write(rows)
    tasks.digest = manifest_of(folder, "Tasks").digest
    return tasks
