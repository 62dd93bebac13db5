"""The local runner: the loop on this machine, each stage in process or as a subprocess, without Docker or a cluster.

Outputs are stored before the ledger entry is written. So a kill at any instant loses at most the stage that was running.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from instar import contract
from instar.code import code_version
from instar.contract import Context
from instar.events import Listener, Unit, silent
from instar.heartbeat import Heartbeat
from instar.ledger import Entry
from instar.limits import Limits
from instar.pipelines import versions
from instar.pipelines.execute import Result, execute
from instar.pipelines.ledger_runner import Job, LedgerRunner
from instar.pipelines.reuse import take_over
from instar.pipelines.supervise import watchdog
from instar.resident import Resident
from instar.workspace import Workspace

Mode = Literal["inprocess", "subprocess"]


class LocalRunner(LedgerRunner):
    """Runs stages for `pipelines.evolution` and records them in the workspace's ledger."""

    def __init__(
        self,
        workspace: Workspace,
        mode: Mode = "inprocess",
        listener: Listener = silent,
        limits: Limits | None = None,
        threads: int = 0,
        reuse: Workspace | None = None,
    ) -> None:
        super().__init__(workspace, listener)
        self.mode, self.threads, self.reuse = mode, threads, reuse
        self.limits = limits or Limits()
        self.resident = Resident()

    def produce(self, job: Job) -> Entry:
        """Run the stage, store its outputs, then write the ledger line. A result of the directory `reuse` is taken over instead."""
        if self.reuse is not None and (taken := take_over(self.reuse, self.workspace, job)) is not None:
            return taken
        started = time.time()
        local = {n: type(a)(self.workspace.cas.get(a.digest), a.digest) for n, a in job.inputs.items()}
        folder = self.workspace.fresh_scratch(f"{job.step:06d}-{job.stage.name}-{job.shard.number}")
        ctx = self._context(job, folder)
        if self.mode == "inprocess":
            with watchdog.watch(self.limits), _threads(self.threads):
                result: Result[Any] = execute(job.stage, local, job.config, ctx, folder)
            outputs = {n: self.workspace.put(a) for n, a in contract.artifacts(result.outs).items()}
            metrics, perf = result.metrics, result.perf
        else:
            done = watchdog.run_stage(job.stage, local, job.config, ctx, self.workspace, self.limits, self.threads)
            outputs, metrics, perf = done["outputs"], done["metrics"], done["perf"]
        timing = {"started": started, "ended": time.time(), **perf, **versions.notes(self.threads)}
        entry = self.workspace.ledger.append("stage", job.body(outputs, metrics, code_version()), timing)
        shutil.rmtree(folder, ignore_errors=True)
        return entry

    def _context(self, job: Job, folder: Path) -> Context:
        beat = Heartbeat(self.workspace.path / "heartbeat.json", job.stage.name, lambda u, m: self.listener(Unit(u, m)))
        return Context(
            evolution=self.workspace.evolution,
            step=job.step,
            stage=job.stage.name,
            scratch=folder,
            shard=job.shard,
            resident=self.resident,
            heartbeat=beat,
        )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    if not count:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
