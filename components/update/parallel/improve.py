"""The policy-gradient update in one of several processes: what `policy_gradient.improve` does, on shards of the model.

If another update follows in the same segment (`ctx.durable` is false), the process stays alive. Learner and reference then
stay where they are, in shards. Only the policy is put together, on process 0, because the sampler needs it whole.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from instar.artifact import Policy
from instar.components import policy_io
from instar.components.update import forward, inputs, memory, metrics, stats
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.learner import Learner
from instar.components.update.parallel import budget, shard
from instar.components.update.parallel.ranks import Ranks
from instar.components.update.policy_gradient import train
from instar.components.update.publish import publish
from instar.components.update.resident_state import broken
from instar.components.update.stage import Ins, Outs
from instar.contract import Context, Metrics


@dataclass(kw_only=True)
class Held:
    """What a process keeps from one update to the next: the learner, what `trainer.json` says of it, and the reference."""

    learner: Learner | None = None
    record: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    """The frozen model by the digest of its policy. There is one at most."""
    mesh: Any = None

    def num_bytes(self) -> int:
        """Return the memory of this process's shards."""
        tensors: list[Any] = [p for model in self.reference.values() for p in model.parameters()]
        if self.learner is not None:
            tensors += [*self.learner.named().values(), *self.learner.optimizer.tensors().values()]
        return sum(part.to_local().nbytes for part in tensors)


def improve(
    ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context, ranks: Ranks, device: str, held: Held
) -> Metrics:
    """Train the policy on one batch. Process 0 writes the outputs and returns the metrics, the others return none."""
    data, config, dump = inputs.read(ins, config, ctx)
    config = budget.split(config, data, ranks.size)
    has_reference = inputs.needs_reference(ins.reference, ins.policy, config)
    if held.record != _record(ins):  # this policy does not follow from the one that is held
        held.learner = None
    plan = budget.decide(ins.policy, config, data, has_reference, device, ranks.size, held.num_bytes())
    config = dataclasses.replace(config, gradient_checkpointing="on" if plan.checkpointing else "off")
    ctx.heartbeat(f"{memory.line(plan, config.packing)}, each of {ranks.size} processes", memory.metrics(plan))

    passes = count()

    def beat() -> None:
        ctx.heartbeat(f"forward pass {next(passes)}", {})

    held.mesh = held.mesh or init_device_mesh(device, (ranks.size,))
    learner = _learner(ins, config, ctx, ranks, held, beat)
    frozen = ins.reference if has_reference else None
    if frozen is not None and frozen.digest not in held.reference:
        held.reference = {frozen.digest: in_turn(ranks, lambda: _reference(frozen, config, ctx, held.mesh, beat))}
    reference = learner.compute if frozen is None else held.reference[frozen.digest]

    outcome = train(learner, data, config, ctx, reference, dump)

    whole = shard.collect(learner, lambda: shard.shell(ins.policy, config, ctx), whole=ctx.durable)
    reported: Metrics = {}
    if whole is not None:
        outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.trained_groups))
        # The sampler is another process, so the policy's weights are written even if `ctx` keeps them in memory.
        publish(whole, outcome, ins.policy, outs, dataclasses.replace(ctx, durable=True))
        reported = {**metrics.collect(config, data, outcome), **memory.metrics(plan)}
    _hold(held, learner, outs, ctx)
    return reported


def _record(ins: Ins) -> dict[str, Any]:
    return ins.trainer.read_json("trainer.json") if ins.trainer is not None else {}


def _learner(
    ins: Ins, config: PolicyGradientConfig, ctx: Context, ranks: Ranks, held: Held, beat: shard.Beat
) -> Learner:
    """Return the learner in shards: the one that is held, or else one that is read from files."""
    if held.learner is not None:
        shard.resume(held.learner, config, ins.policy)
        return held.learner
    if _record(ins).get("resident"):
        raise broken(
            "the optimiser state that an earlier inner step left in the processes of the update",
            "none, because the processes were started anew",
            ins.trainer,
            "run the segment again from its beginning: only its last step writes the state",
        )

    def build() -> Learner:
        whole = shard.whole(ins.policy, ins.trainer, config, ctx)
        shard.shard(whole, config, ranks, held.mesh, beat)
        return whole

    learner: Learner = in_turn(ranks, build)
    return learner


def _hold(held: Held, learner: Learner, outs: Outs, ctx: Context) -> None:
    """Hold what the next update goes on from, under the fingerprint that process 0 wrote."""
    torch.distributed.barrier()
    held.learner, held.record = (None, {}) if ctx.durable else (learner, outs.trainer.read_json("trainer.json"))
    for frozen in held.reference.values():
        shard.let_go(frozen)
    if held.learner is not None:
        held.learner.source = held.record["fingerprint"]
        held.learner.optimizer.zero_grad()
        forward.as_loaded(held.learner.compute)
    gc.collect()


def _reference(policy: Policy, config: PolicyGradientConfig, ctx: Context, mesh: Any, beat: shard.Beat) -> Any:
    """Return the frozen model in shards, in the number type of the forward pass."""
    model: Any = policy_io.load_model(policy, ctx)
    if model.dtype != getattr(torch, config.dtype):
        model = policy_io.cast_copy(model, getattr(torch, config.dtype), "cpu")
    ctx.resident.clear()
    return shard.cut(model.requires_grad_(False), config, mesh, beat)


def in_turn(ranks: Ranks, act: Callable[[], Any]) -> Any:
    """Return what `act` returns. The processes call it one after the other, so that one whole model is in memory at a time."""
    result = None
    for rank in range(ranks.size):
        if rank == ranks.rank:
            result = act()
        torch.distributed.barrier()
    return result
