"""The policy-gradient update in one of several processes: what `policy_gradient.improve` does, in shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from instar.artifact import Policy
from instar.components import policy_io
from instar.components.update import experience, inputs, memory, metrics, policy_gradient, stats, trainer
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.parallel import budget, shard
from instar.components.update.parallel.ranks import Ranks
from instar.components.update.stage import Ins, Outs
from instar.contract import Context, Metrics


def improve(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context, ranks: Ranks, device: str) -> Metrics:
    """Train the policy on one batch; process 0 writes the outputs and returns the metrics, the others return none."""
    inputs.check(ins.policy, ins.trainer, ins.reference, config, ctx)
    rollouts, scores = ins.rollouts.table(), ins.scores.table()
    data = experience.join(ins.batch.table(), rollouts, scores, config.min_group)
    inputs.check_rollouts(data, ins.policy, config)
    config = policy_gradient.resolve(config, data, ins.policy)
    config = budget.split(config, data, ranks.size)
    has_reference = inputs.needs_reference(ins.reference, ins.policy, config)
    plan = budget.decide(ins.policy, config, data, has_reference, device, ranks.size)
    config = dataclasses.replace(config, gradient_checkpointing="on" if plan.checkpointing else "off")
    ctx.heartbeat(f"{memory.line(plan, config.packing)}, each of {ranks.size} processes", memory.metrics(plan))

    passes = count()

    def beat() -> None:
        ctx.heartbeat(f"forward pass {next(passes)}", {})

    mesh = init_device_mesh(device, (ranks.size,))
    student = in_turn(ranks, lambda: _student(ins, config, ctx, ranks, mesh, beat))
    reference = student.compute
    if has_reference and ins.reference is not None:
        frozen = ins.reference
        reference = in_turn(ranks, lambda: _reference(frozen, config, ctx, mesh, beat))
    dump = inputs.dumper(data, rollouts, scores, ctx.scratch / "bad-batch")
    outcome = trainer.train(student, data, config, ctx, reference, dump)
    del reference
    made = shard.collect(student, lambda: shard.whole(ins.policy, ins.trainer, config, ctx))
    if made is None:
        return {}
    outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.kept))
    policy_gradient.write(made, outcome, ins.policy, outs, ctx)
    return {**metrics.collect(config, data, outcome), **memory.metrics(plan)}


def _student(ins: Ins, config: PolicyGradientConfig, ctx: Context, ranks: Ranks, mesh: Any, beat: shard.Beat) -> Any:
    student = shard.whole(ins.policy, ins.trainer, config, ctx)
    shard.shard(student, config, ranks, mesh, beat)
    return student


def _reference(policy: Policy, config: PolicyGradientConfig, ctx: Context, mesh: Any, beat: shard.Beat) -> Any:
    """Return the frozen model in shards of the type of the forward pass."""
    model: Any = policy_io.load_model(policy, ctx)
    if model.dtype != getattr(torch, config.dtype):
        model = policy_io.cast_copy(model, getattr(torch, config.dtype), "cpu")
    ctx.resident.clear()
    return shard.cut(model.requires_grad_(False), config, mesh, beat)


def in_turn(ranks: Ranks, act: Callable[[], Any]) -> Any:
    """Return what `act` makes, one process after the other."""
    made = None
    for rank in range(ranks.size):
        if rank == ranks.rank:
            made = act()
        torch.distributed.barrier()
    return made
