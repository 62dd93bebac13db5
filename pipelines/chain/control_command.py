"""`instar control begin|open|gate|advance|gang|tick`: the commands of the nodes that are not stages.

Like `instar stage`, they take KFP's executor input, or the same values as options. With `--outputs`, each output is also written
to a file of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import contract, executor
from instar.errors import ConfigError, nearest
from instar.executor import ExecutorInput, Pointer
from instar.head import Head
from instar.pipelines.brought import pinned as brought
from instar.pipelines.chain import segment
from instar.pipelines.chain.pointers import pointers, pointers_of
from instar.pipelines.chain.segment import Run
from instar.pipelines.evolution import Position
from instar.pipelines.lifecycle import stored_recipe
from instar.pipelines.replay import why_over
from instar.sources import pinned
from instar.store_files import storage_errors, write_whole
from instar.terminal import say
from instar.workspace import Workspace

TASKS = ("begin", "open", "gate", "advance", "gang", "tick")
_COUNTS = ("segment", "attempt", "iteration", "plus_iteration")
_TEXTS = ("store", "evolution", "run_id")


def main(argv: Sequence[str]) -> int:
    """Run one control node and return the exit code."""
    name = argv[0] if argv else ""
    if name not in TASKS:
        raise ConfigError(
            expected="a control task", found=repr(name), where="instar control", action=nearest(name, TASKS)
        )
    args = vars(_parser(name).parse_args(argv[1:]))
    if args["outputs"]:
        with storage_errors(Path(args["outputs"])):
            Path(args["outputs"]).mkdir(parents=True, exist_ok=True)
    if name == "gang":
        from instar.pipelines.chain.gang.task import main_gang

        return main_gang(args["executor_input"] or "")
    executor_input = executor.parse(args["executor_input"]) if args["executor_input"] else None
    values = {**args, **(executor_input.parameters if executor_input else {})}
    values |= {key: executor.integer(values, key) for key in _COUNTS}
    values |= {key: executor.text(values, key) for key in _TEXTS}
    if name == "tick":
        return _tick(values)
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        workspace = Workspace(Path(folder), values["evolution"], values["store"])
        outputs = _run(name, workspace, values)
        if executor_input:
            _write(executor_input, outputs)
        if args["outputs"]:
            _write_files(Path(args["outputs"]), outputs)
    return 0


def _parser(name: str) -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(prog=f"instar control {name}")
    out.add_argument("--store", default="", help="store URI")
    out.add_argument("--evolution", default="", help="name of the evolution")
    out.add_argument("--run-id", dest="run_id", default="", help="id of the run this task belongs to")
    out.add_argument("--segment", type=int, default=0, help="segment that the run executes")
    out.add_argument("--attempt", type=int, default=0, help="attempt at the segment; 0 claims the next one")
    out.add_argument("--iteration", type=int, default=0, help="iterations done before the segment")
    out.add_argument(
        "--plus-iteration", dest="plus_iteration", type=int, default=0, help="iterations of the segment so far"
    )
    out.add_argument("--recipe", default="", help="begin: the resolved recipe in JSON")
    out.add_argument("--opening", default="{}", help="begin: digests of what the user brought, and notes, in JSON")
    out.add_argument("--restart", default="false", help="tick: begin the next generation when the newest is done")
    out.add_argument("--outputs", help="folder for one file per output")
    out.add_argument("--executor-input", help="KFP executor input in JSON, instead of the options above")
    return out


Outputs = tuple[dict[str, Pointer], dict[str, tuple[str, Mapping[str, Any]]], dict[str, str]]
"""The outputs of a control node: pointers, other files with their metadata, and parameters."""


def _run(name: str, workspace: Workspace, values: Mapping[str, Any]) -> Outputs:
    run = Run(run_id=values["run_id"], segment=values["segment"], attempt=values["attempt"])
    iteration = values["iteration"] + values["plus_iteration"]
    if name == "begin":
        head = segment.begin(workspace, executor.document(values, "recipe"), executor.document(values, "opening"))
        counters = {"segment": head.segment, "iteration": head.iteration, "step": head.step}
        return {}, {}, {"next": following(head), **{n: str(v) for n, v in counters.items()}}
    if name == "open":
        position = segment.open_segment(workspace, run)
        return (_brought(workspace) if position is None else _pointers(workspace, position, ends=False)), {}, {}
    if name == "gate":
        return _pointers(workspace, segment.gate(workspace, run, iteration), ends=True), {}, {}
    head = segment.advance(workspace, run, iteration)
    started = segment.start_next(workspace, head, run.run_id)
    _track(workspace)
    say(f"segment {run.segment} committed; next: {following(head)}; {started}\n")
    return {}, _summary(workspace), {"next": following(head)}


def following(head: Head) -> str:
    """Return the kind of the next segment, or how the evolution ended, for example `done`."""
    return head.kind if head.status == "running" else head.status


def _brought(workspace: Workspace) -> dict[str, Pointer]:
    """Return pointers to what the user brought and to the sources. The first segment begins with them."""
    members = contract.flatten({"sources": pinned(workspace.ledger), **brought(workspace.ledger)})
    return {contract.flat_name(n): Pointer(digest=a.digest, type=type(a).__name__) for n, a in members.items()}


def _pointers(workspace: Workspace, position: Position, ends: bool) -> dict[str, Pointer]:
    """Return the pointers to the state of the loop.

    If the gate has ended the evolution and `ends` is True, every pointer says so. Then later stages do nothing.
    """
    recipe = stored_recipe(workspace)
    declared, over = pointers(recipe), why_over(recipe, position)
    kinds = {name: kind.__name__ for name, (kind, _) in contract.ports(declared).items()}
    if ends and over:
        return {name: Pointer(digest="", type=kind, stopped=over) for name, kind in kinds.items()}
    entries = pointers_of(position, declared)
    return {name: Pointer(digest=a.digest if a else "", type=kinds[name]) for name, a in entries.items()}


def _track(workspace: Workspace) -> None:
    """Send the new entries of the ledger to MLflow. If the server is down, warn; the next segment sends what is missing."""
    from instar.tracking import open_tracker

    open_tracker(os.environ.get("MLFLOW_TRACKING_URI") or "off", workspace).sync(force=True)


def _summary(workspace: Workspace) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the Markdown page that the pipelines UI shows for the segment, and its scalars."""
    from instar.report.markdown import page
    from instar.status import status

    metrics = status(workspace)["metrics"]
    return {"report": (page(workspace), {}), "metrics": (json.dumps(metrics, sort_keys=True), metrics)}


def _write(executor_input: ExecutorInput, outputs: Outputs) -> None:
    pointers, files, parameters = outputs
    wanted = {name: pointer for name, pointer in pointers.items() if name in executor_input.outputs}
    executor.write(executor_input, wanted, {"schema": 1}, files, parameters)


def _write_files(folder: Path, outputs: Outputs) -> None:
    pointers, _, parameters = outputs
    for name, text in {**{n: p.digest for n, p in pointers.items()}, **parameters}.items():
        write_whole(folder / name, text)


def _tick(values: Mapping[str, Any]) -> int:
    """Repair the newest generation of an evolution. If it is done and `restart` is set, begin the next generation."""
    from instar.pipelines.chain.generations import tick_newest
    from instar.store import open_store

    api = segment.api_from_environment()
    if api is None:
        raise ConfigError(
            expected=f"the URL of the pipelines API in {segment.HOST}",
            found="no value",
            where="environment",
            action="set kfp_host in the pool profile",
        )
    restart = executor.flag(values, "restart")
    done = tick_newest(open_store(values["store"]), api, values["evolution"], restart, time.time(), values["run_id"])
    say(f"{done.did}: {done.reason}\n")
    return 0
