"""A micro evolution by one of several runners, for a process of its own: `python -m support.carrying RUNNER CLOCK FOLDER ENTRY`.

It prints what the ledger says of an entry: who read and who wrote it, and its rows after the last step.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

import instar
from instar import config as configs
from instar.artifact import Table
from instar.contract import ports
from instar.pipelines.argo import write_workflow
from instar.pipelines.chain import control_command
from instar.pipelines.containers import ir
from instar.pipelines.containers.evolution import drive
from instar.pipelines.evolution import evolve
from instar.pipelines.kubeflow import compile_graph
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import KINDS, Kind, trace
from instar.state import State
from instar.workspace import Workspace, create_workspace
from support.inline_argo import Argo
from support.inline_engine import run_program
from support.micro import EVOLUTION, micro

IMAGES = Images(digests={"instar-cpu": "sha256:" + "a" * 64})


def in_process(recipe: Recipe, folder: Path) -> None:
    workspace = create_workspace(folder, EVOLUTION)
    open_evolution(workspace, recipe, 0)
    evolve(LocalRunner(workspace), recipe)


def command_line(recipe: Recipe, folder: Path) -> None:
    workspace = create_workspace(folder, EVOLUTION)
    open_evolution(workspace, recipe, 0)
    evolve(LocalRunner(workspace, "subprocess"), recipe)


def kubeflow(recipe: Recipe, folder: Path) -> None:
    """Run every segment from its compiled package, each task from KFP's executor input."""
    given = {"store": str(folder / "store"), "evolution": EVOLUTION}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert control_command.main(["begin", *words, "--recipe", configs.dumps(recipe)]) == 0
    middle: list[Kind] = ["iterate"] * recipe.iterations
    kinds: list[Kind] = ["begin", *middle, "finish"]
    for kind in KINDS:
        compile_graph(trace(recipe, kind), load("kind-dev"), IMAGES, folder / f"{kind}.yaml")
    for segment, kind in enumerate(kinds):
        done = max(0, segment - 1)
        counts = {"segment": segment, "attempt": 0, "iteration": done, "step": done * recipe.inner_steps}
        run_program(ir.load(folder / f"{kind}.yaml"), given | counts, folder / f"run-{segment}", f"run-{segment}")


def argo(recipe: Recipe, folder: Path) -> None:
    """Run the exported workflow, each task as a command whose outputs are files."""
    write_workflow(recipe, load("kind-dev"), IMAGES, folder / "argo.yaml")
    workflow = yaml.safe_load((folder / "argo.yaml").read_text())
    given = {"store": str(folder / "store"), "evolution": EVOLUTION}
    Argo(workflow, given, folder / "outputs").run("evolution", {})


def containers(recipe: Recipe, folder: Path) -> None:
    """Run every task in its own container, of the image that INSTAR_IMAGE names."""
    workspace = create_workspace(folder, EVOLUTION)
    open_evolution(workspace, recipe, 0)
    drive(workspace, recipe, load("local"), Images(digests={"instar-cpu": os.environ["INSTAR_IMAGE"]}))


RUNNERS: dict[str, Callable[[Recipe, Path], None]] = {
    "in_process": in_process,
    "command_line": command_line,
    "kubeflow": kubeflow,
    "argo": argo,
    "containers": containers,
}


def main(runner: str, clock: Any, folder: Path, entry: str) -> None:
    """Run, and print what became of the entry."""
    torch.set_num_threads(1)
    folder.mkdir()
    RUNNERS[runner](micro(clock=clock, iterations=3, threads=1), folder)
    workspace = Workspace(folder, EVOLUTION, str(folder / "store"))
    calls = [dict(e.body) for e in workspace.ledger.of("stage")]
    touched = [
        [body["stage"], body["step"], body["inputs"].get(entry, ""), body["outputs"].get(entry, "")] for body in calls
    ]
    kind, last = ports(State)[entry][0], [out for *_, out in touched if out][-1]
    artifact = kind(workspace.cas.get(last), last)
    rows = artifact.table().drop_columns(["policy"]).to_pylist() if isinstance(artifact, Table) else []
    report = {"instar": instar.__file__, "calls": touched, "rows": rows}
    sys.stdout.write(json.dumps(report, default=repr) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
