"""Processes of an update that die, hang, fall silent, wait or find a number that is none; `job.json` says which."""

from __future__ import annotations

import os
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

from instar.components.update.parallel import worker
from instar.components.update.parallel.gang import write
from instar.heartbeat import Heartbeat

FOREVER = 600.0


def work(job: dict[str, Any], folder: Path, rank: int, size: int) -> None:
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    if job["fault"] == "nan":
        _not_a_number(job, folder, rank, size)
        return
    if job["fault"] == "waiting":
        _answer(folder, rank)
        return
    beat = Heartbeat(folder / f"rank-{rank}.json", "update", lambda unit, metrics: None)
    if job["fault"] == "hung":
        worker.join("cpu", job["timeout_s"])
    beat("pass 7", {})
    if rank == 1 and job["fault"] == "killed":
        while not (folder / "rank-0.json").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and job["fault"] == "hung":
        import torch

        torch.distributed.all_reduce(torch.zeros(1))
    stuck_here()


def stuck_here() -> None:
    time.sleep(FOREVER)


def _answer(folder: Path, rank: int) -> None:
    """Do what `worker.serve` does, without an update."""
    for number in count(1):
        found = worker._wait(folder / f"job-{number}.json")
        Heartbeat(folder / f"rank-{rank}.json", "update", lambda unit, metrics: None)(f"job {number}", {})
        if rank == 0:
            while not (folder / "pid-1").exists():  # an update is done when all processes are there
                time.sleep(0.05)
            write(folder / f"metrics-{number}.json", {"pid": os.getpid()})
        if found["last"]:
            return


def _not_a_number(job: dict[str, Any], folder: Path, rank: int, size: int) -> None:
    """Do a real update in which process 1, and no other, computes a log-probability that is not a number."""
    import dataclasses

    from instar.components.update import forward
    from instar.components.update.parallel.improve import Held

    true = forward.compute

    def broken(*args: Any) -> forward.Scored:
        out = true(*args)
        return dataclasses.replace(out, logp=out.logp * float("nan")) if out.logp.requires_grad else out

    if rank == 1:
        forward.compute = broken
    worker.join(job["device"], job["config"]["collective_timeout_s"])
    worker.improve(job, folder, rank, size, Held())


if __name__ == "__main__":
    worker.main(work)
