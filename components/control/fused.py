"""The fused segment: S inner steps of curriculum, rollout, reward and update inside one process, committed together.

The four stage functions are the ones the `rounds` clock runs as separate stages. Intermediate artifacts live in scratch and
are dropped after the next step; the last step's rollouts and scores are kept for inspection, and every step's metrics.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.artifact import (
    ArmStats,
    Artifact,
    Batch,
    CurriculumState,
    History,
    Policy,
    Rollouts,
    Scores,
    Tasks,
    TrainerState,
)
from instar.components.control.inner import FusedConfig
from instar.contract import PERF, WHOLE, Context, Inputs, Metrics, Shard, Stage, artifacts, flatten

if TYPE_CHECKING:
    from instar.pipelines.evolution import State


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The loop's state. The last four are absent at the first inner step."""

    tasks: Tasks
    data: Rollouts
    policy: Policy
    reference: Policy
    trainer: TrainerState | None
    curriculum: CurriculumState | None
    stats: ArmStats | None
    derived: Tasks | None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The state after S inner steps, with the history of all and the record of the last."""

    policy: Policy
    trainer: TrainerState
    curriculum: CurriculumState
    stats: ArmStats
    derived: Tasks
    history: History
    batch: Batch
    rollouts: Rollouts
    scores: Scores


def fused(ins: Ins, outs: Outs, config: FusedConfig, ctx: Context) -> Metrics:
    """Run `config.steps` inner steps; metrics are means over the steps, `updates` is a sum."""
    from instar.pipelines.evolution import State, inner_step

    scratch = _Scratch(ctx)
    state = State(**{f.name: getattr(ins, f.name) for f in dataclasses.fields(Ins)})
    for step in range(ctx.step, ctx.step + config.steps):
        scratch.begin(step, last=step == ctx.step + config.steps - 1)
        state = inner_step(scratch.call, config.inner, state, 0, step)
    _keep(state, scratch, outs)
    return _summary(scratch.history)


class _Scratch:
    """Runs inner stages on scratch folders: same calls as a runner, nothing committed."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.folder = ctx.scratch / "inner"
        self.history: list[dict[str, Any]] = []
        self.last: dict[str, Artifact] = {}
        self._kept: list[Path] = []

    def begin(self, step: int, last: bool) -> None:
        """Open the line of `step` and delete the artifacts of the step before the previous one. Only the last step's are kept."""
        self.ctx = dataclasses.replace(self.ctx, durable=last)
        self.history.append({"step": step})
        self._kept.append(self.folder / f"{step:06d}")
        while len(self._kept) > 2:
            shutil.rmtree(self._kept.pop(0))

    def call(
        self,
        stage: Stage[Any, Any, Any],
        config: Any,
        *,
        iteration: int,
        step: int | None = None,
        shard: Shard | None = None,
        **inputs: Inputs,
    ) -> Any:
        """Run one inner stage and add its metrics to the history."""
        from instar.pipelines.execute import execute

        del iteration
        part = shard or WHOLE
        ctx = dataclasses.replace(self.ctx, step=step or 0, stage=stage.name, shard=part)
        folder = self._kept[-1] / f"{stage.name}-{part.number}"
        result = execute(stage, flatten(inputs), config, ctx, folder)
        self.last |= artifacts(result.outs)
        self.history[-1] |= {f"{stage.name}/{k}": v for k, v in (result.metrics | result.perf).items()}
        self.ctx.heartbeat(f"step {step} {stage.name}", result.metrics)
        return result.outs


def _keep(state: State, scratch: _Scratch, outs: Outs) -> None:
    final = {name: getattr(state, name) for name in ("policy", "trainer", "curriculum", "stats", "derived")}
    final |= {name: scratch.last[name] for name in ("batch", "rollouts", "scores")}
    for name, artifact in final.items():
        target = getattr(outs, name).path
        # Made here and removed below, so it is moved: a policy of 135M parameters with its state is 2 GB.
        if artifact.path.is_relative_to(scratch.folder):
            for part in sorted(artifact.path.iterdir()):
                shutil.move(part, target / part.name)
        else:
            shutil.copytree(artifact.path, target, dirs_exist_ok=True)
    resident = scratch.ctx.resident
    for kind, name in (("model", "policy"), ("trainer", "trainer")):
        digest, folder = getattr(state, name).digest, str(getattr(outs, name).path)
        if (kind, digest) in resident:
            resident[(f"pending-{kind}", folder)] = resident.pop((kind, digest))
    pure = [{k: v for k, v in line.items() if PERF not in k} for line in scratch.history]
    (outs.history.path / "metrics.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in pure))
    shutil.rmtree(scratch.folder)


def _summary(history: list[dict[str, Any]]) -> Metrics:
    names = sorted({name for line in history for name in line if name != "step"})
    metrics: Metrics = {"inner_steps": float(len(history))}
    for name in names:
        values = [line[name] for line in history if name in line]
        total = name.endswith(("/updates", "_s")) and not name.endswith("_per_s")
        stage, _, metric = name.partition("/")
        key = f"{PERF}{stage}/{metric.removeprefix(PERF)}" if metric.startswith(PERF) else name
        metrics[key] = sum(values) if total else sum(values) / len(values)
    return metrics


STAGE = Stage("fused", Ins, Outs, FusedConfig, fused, version=4)
