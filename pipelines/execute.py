"""Runs one stage on local folders and names its outputs by content. Runners add resident state, storage and a ledger around it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from instar import contract
from instar.artifact import Artifact
from instar.contract import PERF, Context, Metrics, Stage
from instar.manifest import manifest_of
from instar.memory_limits import memory_errors
from instar.store_files import refusals

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Result(Generic[O]):
    """What one stage call produced: outputs with digests, metrics that depend on the inputs alone, and measurements (`perf`)."""

    outs: O
    metrics: Metrics
    perf: dict[str, float]


def execute(
    stage: Stage[I, O, C], inputs: Mapping[str, Artifact | None], config: C, ctx: Context, folder: Path
) -> Result[O]:
    """Call `stage` with its outputs in sub-folders of `folder`. What the stage keeps in memory is filed under the outputs' digests.

    Outputs are named by content. A stage of an inner step may name them itself if they are not stored (`ctx.durable` is false).
    If the file system refuses an operation, `StorageError` is raised, in whichever library it happened.
    """
    with refusals(folder):
        return _execute(stage, inputs, config, ctx, folder)


def _execute(
    stage: Stage[I, O, C], inputs: Mapping[str, Artifact | None], config: C, ctx: Context, folder: Path
) -> Result[O]:
    ins = contract.bind(stage.ins, inputs, where=stage.name)
    ports = contract.requested(stage.outs, getattr(config, "writes", ()))
    targets = {name: kind(folder / name) for name, (kind, _) in ports.items()}
    outs = contract.bind(stage.outs, targets, where=stage.name)
    wall, cpu = time.perf_counter(), time.process_time()
    with memory_errors(f"stage {stage.name}"):
        metrics = stage(ins, outs, config, ctx)
    perf = {k: float(v) for k, v in metrics.items() if k.startswith(PERF)}
    perf |= {"perf/wall_s": time.perf_counter() - wall, "perf/cpu_s": time.process_time() - cpu}
    written = {name: artifact for name, artifact in targets.items() if any(artifact.path.iterdir())}
    for artifact in written.values():
        artifact.digest = artifact.digest or manifest_of(artifact.path, type(artifact).__name__).digest
        ctx.resident.adopt(artifact)
    outs = contract.bind(stage.outs, written, where=stage.name)
    return Result(outs=outs, metrics={k: float(v) for k, v in metrics.items() if not k.startswith(PERF)}, perf=perf)
