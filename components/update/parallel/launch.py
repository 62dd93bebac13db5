"""The update as one call that starts N processes on this machine, watches them, and returns what process 0 found.

Nothing waits without a deadline: a collective has `collective_timeout_s`, and processes that begin no forward pass for
`SLACK` times as long are ended here. All processes end with the one that called.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from instar import config as configs
from instar import contract, lifeline
from instar.components import policy_io
from instar.components.control.limits import Limits, Watch
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.learner import device
from instar.components.update.parallel import verdict
from instar.contract import Context, Metrics
from instar.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from instar.components.update.stage import Ins, Outs

POLL_S = 0.1
SLACK = 2.5
"""A process may be silent for so many deadlines: one pass holds several collectives, each with a deadline of its own."""
START_S = 120.0
"""Time that importing and loading may take before the first sign of life, on top of the deadline."""
GRACE_S = 5.0
"""Time between asking the processes to end, when they write their stacks, and killing them."""


def improve_together(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context) -> Metrics:
    """Train the policy on one batch in `config.processes` processes."""
    place = device(config)
    size = count(config, place)
    if size == 1:
        from instar.components.update.policy_gradient import improve

        return improve(ins, outs, config, ctx)
    forget(ins, ctx)
    folder = ctx.scratch / "processes"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = {
        "ins": {name: (str(a.path.resolve()), a.digest) for name, a in contract.artifacts(ins).items()},
        "outs": {name: (str(a.path.resolve()), a.digest) for name, a in contract.artifacts(outs).items()},
        "config": configs.to_dict(config),
        "context": {"evolution": ctx.evolution, "step": ctx.step, "stage": ctx.stage},
        "scratch": str(ctx.scratch.resolve()),
        "device": place,
    }
    (folder / "job.json").write_text(json.dumps(job))
    run(folder, size, config.collective_timeout_s, ctx, "instar.components.update.parallel.worker")
    metrics = dict(json.loads((folder / "metrics.json").read_text()))
    if not ctx.durable:
        name_inner(ins, outs)
    return metrics


def name_inner(ins: Ins, outs: Outs) -> None:
    """Name what the next inner step replaces by what the trainer says of it: hashing the bytes of 3B parameters takes 23 s.

    Weights that the update left alone keep their name.
    """
    before = ins.trainer.read_json("trainer.json")["fingerprint"] if ins.trainer else None
    record = outs.trainer.read_json("trainer.json")
    kept = before == record["fingerprint"]
    outs.policy.digest = ins.policy.digest if kept else configs.digest({"policy": record["fingerprint"]})
    outs.trainer.digest = configs.digest({"trainer": record})


def count(config: PolicyGradientConfig, place: str) -> int:
    """Return how many processes to start. More than there are CUDA devices is a `ConfigError`."""
    import torch
    from torch import distributed

    devices = torch.cuda.device_count() if place == "cuda" else 0
    size = max(devices, 1) if config.processes == "auto" else config.processes
    if place == "cuda" and size > devices:
        raise ConfigError(
            expected=f"at most {devices} processes, one for each CUDA device",
            found=str(size),
            where="update.processes",
            action="lower it, or write auto",
        )
    cores = len(os.sched_getaffinity(0))
    if place == "cpu" and size > cores:
        raise ConfigError(
            expected=f"at most {cores} processes, one for each core",
            found=str(size),
            where="update.processes",
            action="lower it; on a CPU several processes are for tests, one is faster",
        )
    if size > 1 and not distributed.is_available():
        raise MissingDependencyError(
            expected="a torch built with torch.distributed",
            found=f"torch {torch.__version__} without it",
            where="update.processes",
            action="install another build, or set update.processes=1",
        )
    return size


def forget(ins: Ins, ctx: Context) -> None:
    """Drop what is resident of the policy: the processes read it from files, and need the memory."""
    if ("model", ins.policy.digest) in ctx.resident:
        policy_io.take_model(ins.policy, ctx)
    if ins.trainer is not None:
        ctx.resident.pop(("trainer", ins.trainer.digest), None)
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # else the allocator of this process keeps what the others need


def run(folder: Path, size: int, timeout_s: float, ctx: Context, module: str) -> None:
    """Run `module` in `size` processes on `folder/job.json`; raise the error of the first that fails."""
    command = [sys.executable, "-m", "instar.components.update.parallel.torchrun", str(folder / "ended.json")]
    command += ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(size), "--max-restarts", "0"]
    command += ["-m", module, str(folder / "job.json")]
    with (folder / "torchrun.log").open("ab") as log:
        child = subprocess.Popen(
            lifeline.held(command), stdout=log, stderr=log, env=environment(size), start_new_session=True
        )
        try:
            silent = _wait(child, folder, size, timeout_s, ctx)
        finally:
            end(child)
    if silent or child.returncode != 0:
        raise verdict.error(folder, size, timeout_s, silent)


def environment(size: int) -> dict[str, str]:
    """Return this process's environment, without what another launcher left, with the threads shared out."""
    import torch

    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "TORCHELASTIC_"))}
    threads = str(max(1, torch.get_num_threads() // size))
    return {**kept, "OMP_NUM_THREADS": threads, "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}


def _wait(child: subprocess.Popen[bytes], folder: Path, size: int, timeout_s: float, ctx: Context) -> list[int]:
    """Pass on the progress of process 0 until all have ended; return the processes that were silent for too long."""
    limits = Limits(stage_s=float("inf"), stall_s=SLACK * timeout_s)
    files = [folder / f"rank-{rank}.json" for rank in range(size)]
    watches: dict[int, Watch] = {}
    last, late = "", time.monotonic() + START_S + timeout_s
    while child.poll() is None:
        time.sleep(POLL_S)
        unit = verdict.unit(folder, 0)
        if unit != last:
            last = unit
            ctx.heartbeat(unit, {})
        watches |= {
            r: Watch(file, limits, "update") for r, file in enumerate(files) if r not in watches and file.exists()
        }
        silent = [rank for rank, watch in watches.items() if watch.overdue() is not None]
        silent += [rank for rank in range(size) if rank not in watches and time.monotonic() > late]
        if silent:
            return silent
    return []


def end(child: subprocess.Popen[bytes]) -> None:
    """End the processes: those that still run write their stacks first."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        child.kill()
    child.wait()
