"""`instar import`: a user's own rows become task pools. It prints the guess, the arms with their sizes, and three rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from instar.components.dataset_prep.imported.importer import Imported, Options, describe, import_tasks
from instar.plain import brief
from instar.terminal import say, warn


def run(path: str, out: Path, options: Options) -> Imported:
    """Import the rows at `path` into the new folder `out`, and print what was imported."""
    imported = import_tasks(path, out, options)
    for line in lines(imported, out):
        say(line + "\n")
    for text in imported.warnings:
        warn(f"note: {text}\n")
    return imported


def lines(imported: Imported, out: Path) -> Iterator[str]:
    """Yield what was imported: columns, arms with sizes, rows that were left out, and three tasks."""
    columns = imported.columns.named()
    yield f"{imported.num_read:,} rows of {imported.format}, layout {imported.columns.layout}, form {imported.config.form}"
    yield "columns: " + ", ".join(f"{part} = {name}" for part, name in columns.items())
    if imported.left_out:
        yield "left out: " + ", ".join(f"{kind} ({count:,})" for kind, count in imported.left_out.items())
    yield from describe(imported.config.arms)
    for sample in imported.samples:
        yield f"{sample['task_id']}: {brief(sample['prompt'])} {brief(sample['reference'])}"
    yield f"tasks {out}"
