"""The update stage's work on artifacts: read and join, train, write. Imported inside the stage, because it needs torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar.components.policy_io import load_model, save_policy, take_model
from instar.components.update import experience, memory, metrics, stats, trainer
from instar.components.update.advantages import Ints
from instar.components.update.config import Config
from instar.components.update.experience import Experience
from instar.components.update.learner import Learner, device, master_dtype
from instar.components.update.stage import Ins, Outs
from instar.contract import Context, Metrics
from instar.errors import ContractError, LedgerError


def run(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Train on one batch and write policy, trainer state and arm statistics."""
    _check_inputs(ins, config, ctx)
    rollouts, scores = ins.rollouts.table(), ins.scores.table()
    data = experience.join(ins.batch.table(), rollouts, scores, config.min_group)
    experience.need_groups(data, config.baseline)
    _check_policy(data, ins, config)

    def dump(rows: Ints) -> Path:
        return _dump(rows, data, rollouts, scores, ctx.scratch / "bad-batch")

    reference = _reference(ins, config, ctx)
    plan = memory.plan(ins.policy, config, data, reference is not None)
    memory.check(plan, device(config), config)
    learner = Learner(take_model(ins.policy, ctx), config, ctx, ins.trainer)
    frozen = reference if reference is not None else learner.model
    outcome = trainer.train(learner, data, config, ctx, frozen, dump)
    outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.kept))
    model = learner.save(outs.trainer, outcome.trace.normalisers)
    if outcome.trace.grad_norms:
        save_policy(model, ins.policy, outs.policy, ctx)
    else:
        _copy(ins.policy.path, outs.policy.path)
    return {**metrics.collect(config, data, outcome), **memory.metrics(plan)}


def _check_inputs(ins: Ins, config: Config, ctx: Context) -> None:
    if ins.trainer is None and ctx.step > 0:
        raise LedgerError(
            expected=f"the trainer state of step {ctx.step - 1}",
            found="none",
            where="update.trainer",
            action="restore the trainer state; starting the optimiser afresh would silently change the run",
        )
    if config.kl.place != "none" and ins.reference is None:
        raise ContractError(
            expected="a reference policy",
            found="none",
            where="update.reference",
            action="connect one, or set update.kl.place=none",
        )


def _check_policy(data: Experience, ins: Ins, config: Config) -> None:
    """Rollouts of an older policy need a correction; without one the loss would take them for its own."""
    stale = sorted(set(data.policy) - {ins.policy.digest})
    if stale and config.mismatch.kind == "off":
        raise ContractError(
            expected=f"rollouts of policy {ins.policy.digest}",
            found=f"rollouts of {stale[:3]}",
            where="rollouts:policy",
            action="roll out again, or correct with update.mismatch.kind=token_trunc",
        )


def _reference(ins: Ins, config: Config, ctx: Context) -> Any:
    """Return the frozen model, or None when it is the policy itself or not needed."""
    if config.kl.place == "none" or ins.reference is None:
        return None
    if ins.reference.digest and ins.reference.digest == ins.policy.digest:
        return None
    model: Any = load_model(ins.reference, ctx)
    if model.dtype != master_dtype(config) or model.device.type != device(config):
        import copy

        model = copy.deepcopy(model).to(device=device(config), dtype=master_dtype(config))
    return model


def _copy(source: Path, target: Path) -> None:
    """Nothing was stepped: the policy's bytes, hence its digest, stay."""
    for file in sorted(source.iterdir()):
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def _dump(rows: Ints, data: Experience, rollouts: pa.Table, scores: pa.Table, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    ids = data.rollout_id.take(pa.array(np.sort(rows)))
    for name, table in (("rollouts", rollouts), ("scores", scores)):
        chosen = pa.compute.is_in(table.column("rollout_id"), value_set=ids)
        pq.write_table(table.filter(chosen), folder / f"{name}.parquet")
    return folder
