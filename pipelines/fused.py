"""The fused segment: the inner steps of one iteration inside one process, committed together.

    entries that are carried in -> step, step, ..., step -> entries of lifetime `policy` and `learned`, and the history

The four stage functions are the ones that the `rounds` clock runs as stages of their own. Artifacts between the steps live in a
scratch folder and are dropped after the next step. The history has the metrics of every step.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instar.artifact import History
from instar.contract import PERF, WHOLE, Context, Inputs, Metrics, Shard, Stage, flatten
from instar.pipelines.execute import execute
from instar.pipelines.step import FusedConfig
from instar.state import LIFETIMES, State, declaration, of_lifetime

Ins = declaration("Ins", "The entries that the steps read before they write them.", LIFETIMES)
Outs = declaration("Outs", "The entries after the last step.", of_lifetime("policy", "learned"), {"history": History})


def fused_stage(inner_step: Callable[..., State]) -> Stage[Any, Any, FusedConfig]:
    """Return the stage that runs several of these steps, which `pipelines.evolution` describes."""

    def fused(ins: Any, outs: Any, config: FusedConfig, ctx: Context) -> Metrics:
        """Run `config.steps` inner steps; metrics are means over the steps, `updates` is a sum."""
        scratch = _Scratch(ctx)
        state = State(**{name: getattr(ins, name) for name in LIFETIMES})
        for step in range(ctx.step, ctx.step + config.steps):
            scratch.begin(step, last=step == ctx.step + config.steps - 1)
            state = inner_step(scratch.call, config.inner, state, 0, step)
        _keep(state, scratch, outs)
        return _summary(scratch.history)

    return Stage("fused", Ins, Outs, FusedConfig, fused, version=6)


class _Scratch:
    """Runs inner stages on scratch folders: same calls as a runner, nothing committed."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.folder = ctx.scratch / "inner"
        self.history: list[dict[str, Any]] = []
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
        del iteration
        part = shard or WHOLE
        ctx = dataclasses.replace(self.ctx, step=step or 0, stage=stage.name, shard=part)
        folder = self._kept[-1] / f"{stage.name}-{part.number}"
        result = execute(stage, flatten(inputs), config, ctx, folder)
        self.history[-1] |= {f"{stage.name}/{k}": v for k, v in (result.metrics | result.perf).items()}
        self.ctx.heartbeat(f"step {step} {stage.name}", result.metrics)
        return result.outs


def _keep(state: State, scratch: _Scratch, outs: Any) -> None:
    final = {name: getattr(state, name) for name in of_lifetime("policy", "learned")}
    for name, artifact in final.items():
        if artifact is None:
            continue
        target = getattr(outs, name).path
        # Made here and removed below, so it is moved: a policy of 135M parameters with its state is 2 GB.
        if artifact.path.is_relative_to(scratch.folder):
            for part in sorted(artifact.path.iterdir()):
                shutil.move(part, target / part.name)
        else:
            shutil.copytree(artifact.path, target, dirs_exist_ok=True)
        if name in of_lifetime("policy"):
            scratch.ctx.resident.hand_over(artifact.digest, getattr(outs, name))
    pure = [{k: v for k, v in line.items() if PERF not in k} for line in scratch.history]
    (outs.history.path / "metrics.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in pure))
    shutil.rmtree(scratch.folder)


def _summary(history: list[dict[str, Any]]) -> Metrics:
    names = sorted({name for line in history for name in line if name != "step"})
    metrics: Metrics = {"inner_steps": float(len(history))}
    for name in names:
        values = [line[name] for line in history if name in line]
        stage, _, metric = name.partition("/")
        counts = name.endswith(("/updates", "_s")) and not name.endswith("_per_s")
        total = counts and not metric.startswith("part/")  # the user has named the parts
        key = f"{PERF}{stage}/{metric.removeprefix(PERF)}" if metric.startswith(PERF) else name
        metrics[key] = sum(values) if total else sum(values) / len(values)
    return metrics
