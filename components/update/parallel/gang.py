"""The processes of an update on this machine. They are started once with torchrun, get one job after the other, and are watched.

A job is a file in the folder of the gang, and so is its answer. Within a job nothing waits without a deadline. A collective
may take `timeout_s`. If a process begins no forward pass for `SLACK` times as long, all processes are ended here. Between
two jobs they may wait as long as the rest of the loop takes. When the process that started them ends, they end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar import lifeline
from instar.components.update.parallel import verdict
from instar.contract import Context
from instar.limits import Limits, Watch

POLL_S = 0.1
SLACK = 2.5
"""A process may be silent for this many deadlines, because one pass has several collectives with a deadline each."""
START_S = 120.0
"""Seconds that importing and loading may take before the first sign of life, in addition to the deadline."""
GRACE_S = 5.0
"""Seconds between asking the processes to end, upon which they write their stacks, and killing them."""


class Gang:
    """`size` processes that run `module` on `folder`. Its `job.json` tells them what holds for all jobs."""

    def __init__(self, folder: Path, size: int, timeout_s: float, module: str) -> None:
        self.folder, self.size, self.timeout_s, self.jobs = folder, size, timeout_s, 0
        command = [sys.executable, "-m", "instar.components.update.parallel.torchrun", str(folder / "ended.json")]
        command += ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(size), "--max-restarts", "0"]
        command += ["-m", module, str(folder / "job.json")]
        with (folder / "torchrun.log").open("ab") as log:
            self._child = subprocess.Popen(
                lifeline.held(command), stdout=log, stderr=log, env=environment(size), start_new_session=True
            )
        self._end = weakref.finalize(self, end, self._child)

    def work(self, job: dict[str, Any], final: bool, ctx: Context) -> dict[str, float]:
        """Have one job done and return its metrics. After the `final` job, and after any error, the processes are gone."""
        self.jobs += 1
        if not self.running():  # a process died while it waited for this job
            self.wait(ctx)
        for rank in range(self.size):  # a sign of life from the job before counts for nothing
            (self.folder / f"rank-{rank}.json").unlink(missing_ok=True)
        answer = self.folder / f"metrics-{self.jobs}.json"
        write(self.folder / f"job-{self.jobs}.json", {**job, "last": final})
        self.wait(ctx, answer.exists)
        if final:
            self.wait(ctx)
        return dict(json.loads(answer.read_text()))

    def wait(self, ctx: Context, answered: Callable[[], bool] = lambda: False) -> None:
        """Wait for an answer or for the end of all processes, and pass on the progress of process 0.

        If a process fails, raise its error.
        """
        try:
            silent = self._watch(ctx, answered)
            if not silent and (answered() or self._child.poll() == 0):
                return
        except BaseException:
            self.end()
            raise
        self.end()
        raise verdict.error(self.folder, self.size, self.timeout_s, silent)

    def running(self) -> bool:
        """Whether the processes are alive."""
        return self._child.poll() is None

    def end(self) -> None:
        """End the processes. One that still runs writes its stack first."""
        self._end()

    def _watch(self, ctx: Context, answered: Callable[[], bool]) -> list[int]:
        """Return the processes that were silent for too long. After an answer or an end there are none."""
        limits = Limits(stage_s=float("inf"), stall_s=SLACK * self.timeout_s)
        files = [self.folder / f"rank-{rank}.json" for rank in range(self.size)]
        watches: dict[int, Watch] = {}
        late = time.monotonic() + START_S + self.timeout_s
        told = ""
        while self._child.poll() is None and not answered():
            time.sleep(POLL_S)
            told = self._pass_on(told, ctx)
            watches |= {
                r: Watch(file, limits, "update") for r, file in enumerate(files) if r not in watches and file.exists()
            }
            silent = [rank for rank, watch in watches.items() if watch.overdue() is not None]
            silent += [rank for rank in range(self.size) if rank not in watches and time.monotonic() > late]
            if silent:
                return silent
        self._pass_on(told, ctx)  # the progress that came with the answer
        return []

    def _pass_on(self, told: str, ctx: Context) -> str:
        """Report the latest progress of process 0 and return it. If it is `told`, it was reported before."""
        unit = verdict.unit(self.folder, 0)
        if unit in (told, "none"):
            return told
        ctx.heartbeat(unit, {})
        return unit


def run(folder: Path, size: int, timeout_s: float, ctx: Context, module: str) -> None:
    """Run `module` in `size` processes on `folder/job.json` to its end. If a process fails, raise its error."""
    Gang(folder, size, timeout_s, module).wait(ctx)


def environment(size: int) -> dict[str, str]:
    """Return the environment for the processes: without the variables of another launcher, and with the threads divided."""
    import torch

    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "TORCHELASTIC_"))}
    threads = str(max(1, torch.get_num_threads() // size))
    return {**inherited, "OMP_NUM_THREADS": threads, "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}


def end(child: subprocess.Popen[bytes]) -> None:
    """End the processes. One that still runs writes its stack first."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        child.kill()
    child.wait()


def write(path: Path, value: Any) -> None:
    """Write a file so that nobody ever reads half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
