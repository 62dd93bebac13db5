"""Runs compiled packages without containers: each task's command is called in this process. For tests of the chain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from instar.pipelines import stage_command
from instar.pipelines.chain import control_command
from instar.pipelines.containers.ir import load
from instar.pipelines.containers.launcher import Outputs, build, fill, read_outputs
from instar.pipelines.containers.program import Loop, Output, Program, Task
from instar.pipelines.containers.values import given_values, task_values
from support.fake_kfp import FakeKfp


class Killed(Exception):
    """What a planted kill raises."""


class Engine:
    """Executes the runs of a fake API server, in order of creation, until none is left.

    `kill_before` names a task before which the process "dies" once: the run becomes FAILED there.
    """

    def __init__(self, kfp: FakeKfp, root: Path) -> None:
        self.kfp, self.root = kfp, root
        self.waiting: list[dict[str, Any]] = []
        self.kill_before: list[str] = []
        self.done: list[tuple[str, str]] = []
        kfp.on_create = self.waiting.append

    def drain(self) -> None:
        """Run until no run waits."""
        while self.waiting:
            self.step()

    def step(self) -> None:
        """Execute the oldest waiting run."""
        run = self.waiting.pop(0)
        run_id, version = run["run_id"], run["pipeline_version_reference"]["pipeline_version_id"]
        package = self.root / f"{version}.yaml"
        package.write_text(yaml.safe_dump_all(self.kfp.versions[version]["documents"]))
        self.kfp.report(run_id, "RUNNING")
        try:
            run_program(load(package), run["runtime_config"]["parameters"], self.root / run_id, run_id, self._task)
        except BaseException as error:
            self.kfp.report(run_id, "FAILED", f"{type(error).__name__}: {error}")
            self.done.append((run_id, "FAILED"))
            if not isinstance(error, Killed):
                raise
        else:
            self.kfp.report(run_id, "SUCCEEDED")
            self.done.append((run_id, "SUCCEEDED"))

    def _task(self, name: str) -> None:
        if self.kill_before and self.kill_before[0] == name:
            self.kill_before.pop(0)
            raise Killed(name)


def run_program(
    program: Program, parameters: Mapping[str, Any], root: Path, run_id: str, before: Any = lambda name: None
) -> dict[str, Outputs]:
    """Run every task of a program in this process."""
    given = given_values(program, parameters)
    done: dict[str, Outputs] = {}
    for node in program.tasks:
        if not isinstance(node, Loop):
            before(node.name)
            done[node.name] = _task(node, None, given, done, root / node.name, run_id)
            continue
        items = node.items.value  # type: ignore[union-attr]
        parts: list[dict[str, Outputs]] = []
        for item in items:
            before(f"{node.tasks[0].name}.{item}")
            inner = dict(done)
            for task in node.tasks:
                inner[task.name] = _task(task, item, given, inner, root / f"{task.name}.{item}", run_id)
            parts.append(inner)
        collected = {k: [a for p in parts for a in p[o.task].artifacts[o.key]] for k, o in node.out_artifacts.items()}
        done[node.name] = Outputs(parameters={}, artifacts=collected)
    return done


def _task(
    task: Task, item: Any, given: Mapping[str, Any], done: Mapping[str, Outputs], folder: Path, run_id: str
) -> Outputs:
    folder.mkdir(parents=True)
    names = {".pipeline_job_uuid": run_id}
    artifacts = {n: done[s.task].artifacts[s.key] for n, s in task.artifacts.items() if isinstance(s, Output)}
    text = build(task, task_values(task, item, given, done, names), artifacts, folder)
    assert task.command[:4] == ("instar", "supervise", "--", "instar"), task.command
    kind, *words = task.command[4:]
    words += [fill(arg, text, names, task.name) for arg in task.args]
    before = dict(os.environ)
    os.environ.update({k: v for k, v in task.env.items() if k == "OMP_NUM_THREADS"})
    try:
        code = {"stage": stage_command.main, "control": control_command.main}[kind](words)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert code == 0
    return read_outputs(task, text)
