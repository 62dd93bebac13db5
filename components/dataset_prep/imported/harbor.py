"""A folder of Harbor tasks: each task is a folder with `task.toml` and `instruction.md`, and files for its container.

The instruction is the prompt. `difficulty` and `category` of the metadata become columns. There is no answer to compare with: a
container runs `tests/test.sh`. So such rows need a reward function, which finds the folder of the task in `reference["task"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar import plain
from instar.components.dataset_prep.imported.part import BATCH, Batch, Cells, decoded, refused

INSTRUCTION, SETTINGS = "instruction.md", "task.toml"


def tasks(folder: Path) -> list[Path]:
    """Return the task folders in `folder`, or `folder` itself if it is one."""
    if (folder / SETTINGS).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{SETTINGS}"))


def read(folder: Path) -> Iterator[Batch]:
    """Yield one row per task folder, with numbers from 1 in the order of their names."""
    rows = [(number, _row(task)) for number, task in enumerate(tasks(folder), 1)]
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _row(task: Path) -> Cells:
    where, file = str(task / INSTRUCTION), task / INSTRUCTION
    settings = plain.toml(_text(task / SETTINGS), str(task / SETTINGS))
    if "steps" in settings:
        raise refused("a task of one instruction", "steps", str(task / SETTINGS), "write one task folder per step")
    instruction = _text(file).strip()
    if not instruction:
        raise refused("an instruction", "an empty file", where, "write the instruction, or remove the task folder")
    metadata: dict[str, Any] = settings.get("metadata", {})
    columns: Cells = {name: metadata[name] for name in ("difficulty", "category") if name in metadata}
    return {"prompt": instruction, **columns, "task": task.name, "metadata": metadata}


def _text(path: Path) -> str:
    try:
        return decoded(path.read_bytes(), str(path))
    except OSError as error:
        raise refused(
            f"a task folder with {INSTRUCTION} and {SETTINGS}", str(error.strerror), str(path), "add the file"
        ) from error
