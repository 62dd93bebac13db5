"""Runs an update in N processes on this machine and returns the metrics of process 0.

The first update starts the processes. They stay until an update whose outputs outlive this process (`ctx.durable`). So a
segment of several inner steps starts them once, and so does a single step. Between the steps of a segment they keep the
optimiser's state, in shards on their devices. Only the policy leaves them, because another process samples from it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from instar import config as configs
from instar import contract
from instar.components.update.learner import device
from instar.components.update.parallel.gang import Gang, write
from instar.contract import Context, Metrics
from instar.errors import ConfigError, MissingDependencyError
from instar.resident import Kind

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import Ins, Outs

GANG: Kind[tuple[str, Gang]] = Kind("update/processes")
"""The processes that wait for the next update, and the settings for which they were started."""


def improve_together(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context) -> Metrics:
    """Train the policy on one batch in `config.processes` processes."""
    place = device(config)
    size = count(config, place)
    if size == 1:
        from instar.components.update.policy_gradient import improve

        return improve(ins, outs, config, ctx)
    forget(ins, ctx)
    job: dict[str, Any] = {
        "ins": {name: (str(a.path.resolve()), a.digest) for name, a in contract.artifacts(ins).items()},
        "outs": {name: (str(a.path.resolve()), a.digest) for name, a in contract.artifacts(outs).items()},
        "context": {"evolution": ctx.evolution, "step": ctx.step, "stage": ctx.stage},
        "scratch": str(ctx.scratch.resolve()),
    }
    purpose = {"config": configs.to_dict(config), "device": place}
    gang = _gang(purpose, size, config.collective_timeout_s, ctx)
    metrics = gang.work(job, ctx.durable, ctx)
    if not ctx.durable:
        ctx.resident.put(GANG, None, (json.dumps(purpose), gang))
        name_inner(ins, outs)
    return metrics


def name_inner(ins: Ins, outs: Outs) -> None:
    """Give the outputs digests that are made from `trainer.json`, for use inside the segment.

    The next inner step replaces these outputs, so a digest of their bytes is not worth its time: for 3B parameters it takes
    23 s. If the update changed no weight, the policy keeps its digest.
    """
    before = ins.trainer.read_json("trainer.json")["fingerprint"] if ins.trainer else None
    record = outs.trainer.read_json("trainer.json")
    unchanged = before == record["fingerprint"]
    outs.policy.digest = ins.policy.digest if unchanged else configs.digest({"policy": record["fingerprint"]})
    outs.trainer.digest = configs.digest({"trainer": record})


def _gang(purpose: dict[str, Any], size: int, timeout_s: float, ctx: Context) -> Gang:
    """Return the processes that wait for a job, or start some. A caller that needs them again must put them back."""
    folder = ctx.scratch / "processes"
    waiting = ctx.resident.take(GANG)
    if waiting is not None:
        started_for, gang = waiting
        if started_for == json.dumps(purpose) and gang.folder == folder:
            return gang
        gang.end()  # they belong to a segment that failed in another stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write(folder / "job.json", purpose)
    return Gang(folder, size, timeout_s, "instar.components.update.parallel.worker")


def count(config: PolicyGradientConfig, place: str) -> int:
    """Return how many processes to start. More than CUDA devices, or on a CPU more than cores, is a `ConfigError`."""
    import torch
    from torch import distributed

    devices = torch.cuda.device_count() if place == "cuda" else 0
    size = max(devices, 1) if config.processes == "auto" else config.processes
    if place == "cuda" and size > devices:
        raise ConfigError(
            expected=f"at most {devices} processes, one for each CUDA device",
            found=str(size),
            where="update.processes",
            action="lower update.processes, or set it to auto",
        )
    cores = len(os.sched_getaffinity(0))
    if place == "cpu" and size > cores:
        raise ConfigError(
            expected=f"at most {cores} processes, one for each core",
            found=str(size),
            where="update.processes",
            action="lower update.processes; on a CPU one process is the fastest, and several are for tests",
        )
    if size > 1 and not distributed.is_available():
        raise MissingDependencyError(
            expected="a torch built with torch.distributed",
            found=f"torch {torch.__version__} without it",
            where="update.processes",
            action="install another build of torch, or set update.processes=1",
        )
    return size


def forget(ins: Ins, ctx: Context) -> None:
    """Drop what is in memory of the policy. The processes read it from files and need the memory themselves."""
    ctx.resident.drop(ins.policy.digest)
    if ins.trainer is not None:
        ctx.resident.drop(ins.trainer.digest)
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # otherwise the allocator of this process keeps memory that the others need
