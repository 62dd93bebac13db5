"""Runs a stage in a process of its own and watches it. A stage that is late or silent writes its stacks and is killed."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import config as configs
from instar import errors, lifeline
from instar.artifact import Artifact
from instar.contract import Context, Stage, port_of
from instar.errors import InstarError, StalledError
from instar.limits import Limits, Watch
from instar.memory_limits import killed

if TYPE_CHECKING:
    from instar.workspace import Workspace


@contextlib.contextmanager
def watch(limits: Limits) -> Iterator[None]:
    """Watch a stage in this process. If it passes its deadline, write the stack of every thread to stderr and end the process."""
    with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr is absent or has no file descriptor
        faulthandler.dump_traceback_later(limits.stage_s, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_stage(
    stage: Stage[Any, Any, Any],
    inputs: Mapping[str, Artifact],
    config: Any,
    ctx: Context,
    workspace: Workspace,
    limits: Limits,
    threads: int = 0,
) -> dict[str, Any]:
    """Run a stage through its command line. Return its outputs (digests), metrics and perf.

    The child stores its outputs itself. If this process ends, the child ends too. So a resume does not meet it.
    """
    result = ctx.scratch / "done.json"
    command = [sys.executable, "-m", "instar", "stage", stage.name, "--store", workspace.store_uri]
    command += ["--evolution", ctx.evolution, "--step", str(ctx.step), "--config", configs.dumps(config)]
    command += ["--work", str(workspace.path), "--result", str(result)]
    command += ["--shard", f"{ctx.shard.number}/{ctx.shard.total}"]
    for name, artifact in inputs.items():
        command += [f"--{port_of(name).replace('_', '-')}", artifact.digest]
    (workspace.path / "heartbeat.json").unlink(missing_ok=True)
    log = workspace.path / "stage.log"
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else None
    with log.open("ab") as stream:
        child = subprocess.Popen(lifeline.held(command), stdout=stream, stderr=stream, env=env, start_new_session=True)
        try:
            code = wait(child, stage.name, workspace.path / "heartbeat.json", limits)
        finally:
            kill(child)
    if code != 0:
        raise child_error(result, stage.name, code, log)
    return dict(json.loads(result.read_text()))


def wait(child: subprocess.Popen[bytes], stage: str, heartbeat: Path, limits: Limits) -> int:
    """Return the exit code of `child`. If it passes a limit, have it write its stacks to its log and raise `StalledError`."""
    watch = Watch(heartbeat, limits, f"stage {stage} (stacks in stage.log)")
    while (code := child.poll()) is None:
        if (stalled := watch.overdue()) is not None:
            child.send_signal(signal.SIGUSR1)  # the child writes its stacks (instar.pipelines.stage_command)
            time.sleep(1.0)
            raise stalled
        time.sleep(limits.poll_s)
    return code


def kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and its children if it still runs. Then reap it."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def child_error(result: Path, stage: str, code: int, log: Path) -> InstarError:
    """Return the named error that the child wrote, so that a runner raises the same class in both modes."""
    try:
        raw = json.loads(result.read_text())["error"]
        kind: type[InstarError] = getattr(errors, raw.pop("class"))
        if issubclass(kind, InstarError):
            return kind(**raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    tail = log.read_bytes()[-400:].decode(errors="replace").strip().splitlines()
    ended = killed(-code) if code < 0 else f"exit code {code}"
    return StalledError(
        expected=f"stage {stage} to end with exit code 0",
        found=f"{ended}; {tail[-1] if tail else 'no output'}",
        where=str(log),
        action="read the log, then resume",
    )
