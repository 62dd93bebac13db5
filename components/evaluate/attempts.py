"""Attempts at held-out tasks: which tasks are attempted, and what the strategies of the stage return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instar import schema
from instar.artifact import Tasks
from instar.components.task_table import digests, resident_tables
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import Config
    from instar.components.evaluate.judging import Judging


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Rows in order of task and sample. Also how many verdicts are missing and why, and further entries of the summary."""

    rows: list[EvalRow] = field(default_factory=list)
    num_abstained: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    notes: dict[str, Any] = field(default_factory=dict)
    """Entries that are added to the summary, for example `probes`."""
    judging: Judging | None = None
    """What the policy said as a judge, and how it corrected itself. None where that is not measured."""


def choose_tasks(pools: Mapping[str, Tasks], splits: tuple[str, ...], config: Config, ctx: Context) -> list[TaskRow]:
    """Return the tasks of `splits` to attempt, in the order of the pools. Raises `ContractError` for a split without tasks."""
    table = resident_tables(pools, ctx.resident)
    asked = np.flatnonzero(pc.call_function("is_in", [table.column("split")], pc.SetLookupOptions(pa.array(splits))))
    places = table.select(["split", "arm"]).take(asked)
    taken: Counter[tuple[str, str]] = Counter()
    picks = []
    keys = zip(places.column("split").to_pylist(), places.column("arm").to_pylist(), strict=True)
    for index, key in zip(asked.tolist(), keys, strict=True):
        if config.tasks_per_arm == 0 or taken[key] < config.tasks_per_arm:
            taken[key] += 1
            picks.append(index)
    empty = sorted(set(splits) - {split for split, _ in taken})
    if empty:
        raise ContractError(
            expected=f"tasks of splits {list(splits)}",
            found=f"none of {empty}",
            where=f"Tasks {digests(pools)}:split",
            action="prepare these pools, or remove the splits from evaluate.splits",
        )
    return list(schema.from_table(TaskRow, table.take(picks)))
