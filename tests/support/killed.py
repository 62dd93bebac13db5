"""A process that forks runs of a micro recipe and kills them: at the next stage boundary, or later.

    python killed.py DIR KIND boundary          one run per boundary: each resume is killed at the first new event
    python killed.py DIR KIND DELAY [DELAY ...] one run per delay, in seconds

KIND is a key of `RECIPES`, or `own`.
Forking from a process that has imported everything but computed nothing makes a run cost milliseconds, not an import of torch.
Prints the number of kills; the caller resumes the directory once more and compares.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import great_expectations
import gymnasium
import mujoco
import pandas
import scipy.stats
import torch
import transformers
from transformers import LlamaForCausalLM

from instar.events import Event, StageDone, StageStarted
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution, stored_recipe
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.quality import run_gate
from instar.workspace import Workspace, create_workspace
from support.micro import EVOLUTION, micro, micro_generated
from support.micro_continuous import micro_continuous
from support.own_code import open_own, write_files

PRELOADED = (
    great_expectations,
    gymnasium,
    mujoco,
    pandas,
    scipy.stats,
    torch,
    transformers,
    LlamaForCausalLM,
    run_gate,
)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "rounds": lambda: micro(clock="rounds"),
    "fused": lambda: micro(clock="fused"),
    "continuous": micro_continuous,
    "generated": lambda: micro_generated(clock="rounds"),
    "generated-fused": lambda: micro_generated(clock="fused"),
}


def opened(directory: Path, kind: str) -> tuple[Workspace, Recipe]:
    """Open an evolution, or open it again. What `own` brings exists only while it is opened for the first time."""
    if kind != "own":
        recipe = RECIPES[kind]()
        workspace = create_workspace(directory, f"{recipe.name}-micro-seed0")
        open_evolution(workspace, recipe, 0)
        return workspace, recipe
    workspace = create_workspace(directory, EVOLUTION)
    if next(workspace.ledger.of("open"), None) is None:
        shutil.rmtree(directory / "mine", ignore_errors=True)
        open_own(directory, write_files(directory / "mine"), clock="fused")
        shutil.rmtree(directory / "mine")
        workspace = create_workspace(directory, EVOLUTION)
    return workspace, stored_recipe(workspace)


def child(directory: Path, kind: str, at_boundary: bool) -> None:
    """Run a micro recipe; with `at_boundary`, die at the first event that the ledger did not already hold."""
    torch.set_num_threads(1)
    workspace, recipe = opened(directory, kind)
    starts = itertools.count()

    def die(event: Event) -> None:
        finished = isinstance(event, StageDone) and not event.cached
        entered = isinstance(event, StageStarted) and first_time(directory, next(starts))
        if at_boundary and (finished or entered):
            os.kill(os.getpid(), signal.SIGKILL)

    evolve(LocalRunner(workspace, "inprocess", die, threads=recipe.threads), recipe)


def first_time(directory: Path, number: int) -> bool:
    """Return True the first time that stage call `number` is entered in this directory, over all processes."""
    path = directory / f"entered-{number}"
    if path.exists():
        return False
    path.touch()
    return True


def main() -> None:
    """Fork, wait or kill, repeat."""
    directory, kind, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    directory.mkdir(parents=True, exist_ok=True)
    kills = 0
    delays = [1e9] * 200 if how == ["boundary"] else [float(d) for d in how]
    for delay in delays:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(directory, kind, how == ["boundary"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        deadline = time.monotonic() + delay
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        if os.WIFSIGNALED(done[1]):
            kills += 1
        elif os.waitstatus_to_exitcode(done[1]) != 0:
            sys.exit(os.waitstatus_to_exitcode(done[1]))
        else:
            break
    sys.stdout.write(f"{kills}\n")


if __name__ == "__main__":
    main()
