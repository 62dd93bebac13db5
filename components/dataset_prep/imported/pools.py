"""Brings imported rows into an evolution: they are checked again part by part and written as the tasks of the evolution.

Only the rows that preparation itself looks at become objects: those of the warm start, one of each arm, and validation tasks for
the anchors.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar import schema
from instar.artifact import ImportedTasks, Tasks
from instar.components.dataset_prep.imported_config import ImportedConfig
from instar.components.dataset_prep.initial import FromScratch
from instar.components.generated.anchors import build as build_anchors
from instar.contract import Context
from instar.errors import ContractError
from instar.quality import run_gate_parts
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.components.dataset_prep.config import TextConfig

ROWS = 32_768
"""How many rows are checked at once."""
MOST_SHOWN = 20_000
"""Most training rows that the warm start reads, over all arms."""


def bring(
    imported: ImportedTasks | None, tasks: Tasks, config: TextConfig, pools: ImportedConfig, ctx: Context
) -> tuple[list[TaskRow], Counter[str], dict[str, Any]]:
    """Write the imported rows and the anchors as `tasks`. Return the rows that preparation looks at, sizes, and the check's report.

    Raises `ContractError` when there are no rows, or others than those for which the configuration was written.
    """
    if imported is None:
        raise ContractError(
            expected="imported rows",
            found="none",
            where="dataset_prep.imported",
            action="pass --tasks with the imported folder",
        )
    look = _Look(config)
    report = run_gate_parts(TaskRow, look.through(parts(imported.path / "rows.parquet"), ctx))
    look.check(pools)
    anchors = build_anchors(look.validation(), config.anchors, ctx.seed) if config.anchors is not None else []
    _write(imported.path / "rows.parquet", anchors, tasks.path / "rows.parquet")
    sizes = Counter[str]()
    for (_, split), count in look.counts.items():
        sizes[split] += count
    sizes["anchor"] = len(anchors)
    return [*look.rows, *anchors], sizes, report


def parts(path: Path) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file, `ROWS` at a time."""
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
            yield pa.Table.from_batches([batch])


class _Look:
    """Counts the rows of every arm and pool, and keeps the few that preparation needs."""

    def __init__(self, config: TextConfig) -> None:
        initial = config.initial
        self._taught = frozenset(initial.warm_start.arms) if isinstance(initial, FromScratch) else frozenset[str]()
        self._shown = MOST_SHOWN // max(1, len(self._taught))
        self._anchored = 2 * config.anchors.questions if config.anchors is not None else 0
        self.counts = Counter[tuple[str, str]]()
        self.rows: list[TaskRow] = []

    def through(self, tables: Iterator[pa.Table], ctx: Context) -> Iterator[pa.Table]:
        """Yield the tables, and note what is in them."""
        for table in tables:
            yield table
            arms, pools = (table.column(name).to_pylist() for name in ("arm", "split"))
            picked = [row for row, place in enumerate(zip(arms, pools, strict=True)) if self._wanted(place)]
            self.rows += schema.from_table(TaskRow, table.take(pa.array(np.asarray(picked, dtype=np.int64))))
            ctx.heartbeat(f"{self.counts.total():,} rows", {})

    def _wanted(self, place: tuple[str, str]) -> bool:
        arm, split = place
        self.counts[place] += 1
        count = self.counts[place]
        if split == "train" and arm in self._taught:
            return count <= self._shown
        return count <= (max(1, self._anchored) if split == "val" else 1)

    def validation(self) -> list[TaskRow]:
        """Return validation tasks of every arm, as many as the anchors can need."""
        return [row for row in self.rows if row.split == "val"]

    def check(self, pools: ImportedConfig) -> None:
        """Raise `ContractError` unless every arm has the tasks that the configuration names."""
        wanted = {(arm, split): n for arm, sizes in pools.sizes().items() for split, n in sizes.items() if n}
        wrong = sorted(key for key in wanted | self.counts if wanted.get(key) != self.counts.get(key))
        if wrong:
            arm, split = wrong[0]
            raise ContractError(
                expected=f"{wanted.get(wrong[0], 0):,} tasks of arm '{arm}' in pool {split}, as the recipe says",
                found=f"{self.counts[wrong[0]]:,}",
                where="dataset_prep.imported",
                action="give the run the folder that its recipe was made for",
            )


def _write(source: Path, anchors: list[TaskRow], target: Path) -> None:
    """Copy the rows, with the anchors after them."""
    if not anchors:
        shutil.copyfile(source, target)
        return
    with pq.ParquetWriter(target, schema.arrow_schema(TaskRow), compression="zstd", write_statistics=False) as writer:
        for table in parts(source):
            writer.write_table(table)
        writer.write_table(schema.to_table(TaskRow, anchors))
