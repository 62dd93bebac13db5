"""Runs a compiled pipeline on one machine, each task in its own Docker container.

Images and executor input are the same as on a cluster. A task has succeeded when its outputs exist and are sound, whatever the
engine says about its end (`instar.pipelines.containers.launcher`). The runner caches nothing, because a stage records its own
result.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
import uuid
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, InstarError, StalledError, UnavailableError
from instar.pipelines.containers.engine import Job, Options, clear, connect, open_folder, reported, run_container
from instar.pipelines.containers.launcher import Outputs, build, fill, read_outputs
from instar.pipelines.containers.program import Loop, Output, Program, Task, cast
from instar.pipelines.containers.values import given_values, task_values, value_of

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True)
class _Run:
    name: str
    run_id: str
    folder: Path
    engine: Any
    options: Options
    image_of: Callable[[str], str]
    arguments: Mapping[str, Any]
    deadline: float
    stopping: threading.Event


def run(
    program: Program,
    parameters: Mapping[str, Any],
    *,
    root: Path,
    name: str = "",
    run_id: str = "",
    image_of: Callable[[str], str] | None = None,
    docker: Any = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> dict[str, Outputs]:
    """Run `program` and return the outputs of its tasks and loops by name.

    Logs and pointer files are in `root/<name>/<task>`, or `<task>.<item>` in a loop. Without `name`, it is the program's name.
    `image_of` maps an image of the pipeline to an image of this engine. Containers that an earlier run of this name left behind are
    removed first, so two runs of one name must not run at one time.

    If a task fails, the error that its exit code stands for is raised. Missing outputs are a `ContractError`. A program that cannot
    run here is a `ConfigError` before anything starts.
    """
    name = name or program.name
    this = _Run(
        name=name,
        run_id=run_id or str(uuid.uuid4()),
        folder=root.resolve() / name,
        engine=docker or connect(),
        options=options,
        image_of=image_of or (lambda image: image),
        arguments=given_values(program, parameters),
        deadline=time.monotonic() + program.deadline_s if program.deadline_s else float("inf"),
        stopping=threading.Event(),
    )
    for node in program.tasks:
        for task in node.tasks if isinstance(node, Loop) else (node,):
            _check(task, this)
    done: dict[str, Outputs] = {}
    clear(this.engine, name)
    with _terminable():
        try:
            for node in program.tasks:
                done[node.name] = (
                    _loop(node, done, this) if isinstance(node, Loop) else _task(node, None, done, this, node.name)
                )
        except BaseException:
            with contextlib.suppress(InstarError):
                clear(this.engine, name)
            raise
    return done


def _check(task: Task, this: _Run) -> None:
    """Raise `ConfigError` for a task that cannot run here, before anything runs."""
    there = {*this.options.environment, *this.options.secrets}
    absent = sorted(name for name, needed in task.machine.supplied.items() if needed and name not in there)
    if absent or task.machine.accelerators:
        raise ConfigError(
            expected="a value for every variable that the task refers to, and no accelerators",
            found=f"no value for {absent}" if absent else f"{task.machine.accelerators} accelerators",
            where=f"task {task.name}",
            action="pass the variables in the options, and compile with a profile for one machine",
        )
    with reported(f"image of task {task.name}", {}):
        this.engine.images.get(this.image_of(task.image))


def _loop(loop: Loop, done: Mapping[str, Outputs], this: _Run) -> Outputs:
    """Run the tasks of a loop for each item. Collected outputs are in the order of the items."""

    def one(index: int, item: Any) -> dict[str, Outputs]:
        inner: dict[str, Outputs] = {}
        for task in loop.tasks:
            inner[task.name] = _task(task, item, ChainMap(inner, dict(done)), this, f"{task.name}.{index}")
        return inner

    items = cast(value_of(loop.items, None, this.arguments, done), "LIST", f"task {loop.name}")
    width = max(1, min(this.options.parallelism, loop.parallelism or this.options.parallelism))
    with ThreadPoolExecutor(width) as pool:
        futures = [pool.submit(one, index, item) for index, item in enumerate(items)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            this.stopping.set()
            for future in futures:
                future.cancel()
            while wait(
                futures, timeout=0.2
            ).not_done:  # an item that has just looked at `stopping` may still start its container
                clear(this.engine, this.name)
            raise
    results = [future.result() for future in futures]
    parameters = {key: [r[o.task].parameters[o.key] for r in results] for key, o in loop.out_parameters.items()}
    artifacts = {key: [a for r in results for a in r[o.task].artifacts[o.key]] for key, o in loop.out_artifacts.items()}
    return Outputs(parameters=parameters, artifacts=artifacts)


def _task(task: Task, item: Any, done: Mapping[str, Outputs], this: _Run, label: str) -> Outputs:
    longest = this.options.timeout_s
    limit_s = min(task.machine.timeout_s or longest, longest, this.deadline - time.monotonic())
    if this.stopping.is_set():
        raise UnavailableError(
            expected="no failure in another item of the loop",
            found="one has failed",
            where=label,
            action="see the first error",
        )
    if limit_s <= 0:
        raise StalledError(
            expected="a start before the run's deadline",
            found="the deadline has passed",
            where=f"task {label}",
            action="run again",
        )
    folder = this.folder / label
    if folder.exists():
        shutil.rmtree(folder)
    out = open_folder(folder / "out", this.options.user)
    names = {
        **dict.fromkeys((".pipeline_job_name", ".pipeline_job_resource_name"), this.name),
        ".pipeline_job_uuid": this.run_id,
        ".pipeline_task_name": task.name,
        ".pipeline_task_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{this.run_id}/{label}")),
        ".pipeline_root": str(this.folder),
    }
    artifacts = {n: done[s.task].artifacts[s.key] for n, s in task.artifacts.items() if isinstance(s, Output)}
    executor_input = build(task, task_values(task, item, this.arguments, done, names), artifacts, out)

    def filled(text: str) -> str:
        return fill(text, executor_input, names, f"task {task.name}")

    known = {**this.options.environment, **this.options.secrets}
    job = Job(
        run=this.name,
        task=label,
        image=this.image_of(task.image),
        command=tuple(map(filled, task.command)),
        args=tuple(map(filled, task.args)),
        env={n: filled(v) for n, v in task.env.items()}
        | dict(this.options.environment)
        | {n: known[n] for n in task.machine.supplied if n in known},
        folder=folder,
        inputs=tuple(Path(entry["uri"]).parent for entries in artifacts.values() for entry in entries),
        machine=task.machine,
        limit_s=limit_s,
    )
    try:
        run_container(this.engine, job, this.options)
    finally:
        for scratch in folder.glob("scratch-*"):
            shutil.rmtree(scratch, ignore_errors=True)
    return read_outputs(task, executor_input)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that containers are removed. Only the main thread can do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
