"""Rows of a user as samples for the checks of a reward, each with its place in the user's file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from instar import schema
from instar.artifact import ImportedTasks
from instar.components.dataset_prep.imported.cells import Reader
from instar.components.dataset_prep.imported.importer import Imported, import_tasks
from instar.components.dataset_prep.imported.source import open_source
from instar.components.reward.probes import Sample
from instar.rows import TaskRow

MOST_ROWS = 2000
"""How many rows are looked at for leaks of the reference. Fewer of them are scored."""


def samples(tasks: Path, folder: Path) -> list[Sample]:
    """Return up to `MOST_ROWS` rows, evenly spread. If `tasks` is no folder of imported tasks, it is imported into `folder`."""
    imported: Imported | None = None
    if not (tasks / "import.json").exists():
        imported = import_tasks(str(tasks), folder)
    table = ImportedTasks(folder if imported else tasks).table()
    count = min(MOST_ROWS, len(table))
    rows = list(schema.from_table(TaskRow, table.take([index * len(table) // count for index in range(count)])))
    places = _places(str(tasks), imported, {row.content_hash for row in rows}) if imported else {}
    return [_sample(row, places.get(row.content_hash, f"{tasks.name}/rows.parquet")) for row in rows]


def _sample(row: TaskRow, place: str) -> Sample:
    reference = json.loads(row.reference)
    task = {name: getattr(row, name) for name in ("task_id", "arm", "domain", "level", "split", "form")}
    return Sample(task_id=row.task_id, place=place, prompt=row.prompt, reference=reference, task=task)


def _places(path: str, imported: Imported, wanted: set[str]) -> dict[str, str]:
    """Return content hash -> file and row, for the rows that are wanted."""
    return {digest: place for digest, place in _contents(path, imported) if digest in wanted}


def _contents(path: str, imported: Imported) -> Iterator[tuple[str, str]]:
    reader = Reader(columns=imported.columns, form=imported.config.form)
    for part in open_source(path, imported.columns.drop).parts:
        for batch in part.read():
            for number, row in batch:
                yield reader.task(row, part, number).content.hex(), part.place(number)
