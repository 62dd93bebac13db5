"""A copy of the source tree with changes, and what a process that runs it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = ("src", "components", "pipelines", "kernels")
Changes = Mapping[str, Sequence[tuple[str, str]]]
"""File -> pairs of a text that is in it once, and what takes its place."""


def copy(folder: Path, changes: Changes) -> Path:
    """Copy the sources into `folder`, and change them."""
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, replacements in changes.items():
        path = folder / name
        text = path.read_text()
        for before, after in replacements:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        path.write_text(text)
    return folder


def differing(folder: Path) -> list[str]:
    """Return the source files of the copy that are not those of this tree."""
    ours, theirs = ({p.relative_to(root): p.read_bytes() for p in _sources(root)} for root in (ROOT, folder))
    return sorted(str(path) for path in {*ours, *theirs} if ours.get(path) != theirs.get(path))


def _sources(root: Path) -> list[Path]:
    return [path for part in PARTS for path in (root / part).rglob("*.py")]


def run(folder: Path, module: str, *words: str) -> Any:
    """Run a module of `tests/` on the copied sources, and return its last line, which is JSON."""
    path = os.pathsep.join([str(folder / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "INSTAR_KFP_HOST": ""}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
