"""A run that is killed and run again ends as an unbroken one, wherever it was killed.

One kind dies at every boundary of its stages under the clock `rounds`, another at random instants under `fused`; the others follow
at night.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from instar.seeds import rng
from instar.workspace import Workspace, open_workspace
from support.killed import RECIPES
from support.micro import open_and_run

KILLED = Path(__file__).parents[1] / "support" / "killed.py"
KINDS = ("continuous", "generated", "generated-fused", "rounds", "fused")


def kinds(*now: str) -> list[Any]:
    """Return all kinds; those that are not named run at night."""
    return [kind if kind in now else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workspace]:
    """Return the workspace of a kind that ran to its end without a fault."""
    import torch

    torch.set_num_threads(1)

    @cache
    def run(kind: str) -> Workspace:
        open_and_run(path := tmp_path_factory.mktemp(kind), RECIPES[kind]())
        return open_workspace(path)

    return run


def kills(directory: Path, kind: str, *how: str) -> int:
    """Run and kill as `killed.py` says until the run is done; return how often it was killed."""
    done = subprocess.run(
        [sys.executable, str(KILLED), str(directory), kind, *how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.parametrize("kind", kinds("continuous"))
def test_kill_at_every_stage_boundary(kind: str, unbroken: Callable[[str], Workspace], tmp_path: Path) -> None:
    """Every resume dies at its first new boundary, before and after each stage, until nothing is left to kill."""
    whole = unbroken(kind).ledger
    assert kills(tmp_path, kind, "boundary") == 2 * sum(1 for _ in whole.of("stage"))
    assert open_workspace(tmp_path).ledger.head == whole.head


@pytest.mark.parametrize("kind", kinds("generated-fused"))
def test_kill_at_random_instants(kind: str, unbroken: Callable[[str], Workspace], tmp_path: Path) -> None:
    delays = [f"{d:.3f}" for d in rng("kill", 0, kind).uniform(0.02, 1.2, size=8)]
    assert kills(tmp_path, kind, *delays, "1e9") > 0
    assert open_workspace(tmp_path).ledger.head == unbroken(kind).ledger.head
