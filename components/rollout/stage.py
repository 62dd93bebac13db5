"""Rollout: the policy acts on the drawn tasks, and the record keeps what it did.

Strategies: `sample` answers to prompts, with every token and its probability; `propose` actions on windows of logged
trajectories, for recipes that learn offline. Shard i of n works on slots i, i + n, i + 2n, ... of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Batch, Policy, Rollouts, Tasks
from instar.components.rollout.config import Config, ProposeConfig, SampleConfig
from instar.contract import Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The acting policy, the tasks, the drawn ones; logged trajectories and tasks made by the evolution, if there are any."""

    policy: Policy
    tasks: Tasks
    batch: Batch
    data: Rollouts | None = None
    generated: Tasks | None = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """One row per sample, in the order of the batch."""

    rollouts: Rollouts


def rollout(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Act on the slots of this shard."""
    slots = ins.batch.read()[ctx.shard.number :: ctx.shard.total]
    match config:
        case SampleConfig():
            from instar.components.rollout.sample import sample

            return sample(
                ins.policy, [t for t in (ins.tasks, ins.generated) if t is not None], slots, outs.rollouts, config, ctx
            )
        case ProposeConfig():
            from instar.components.rollout.propose import propose

            return propose(ins.policy, ins.tasks, slots, ins.data, outs.rollouts, config, ctx)


STAGE = Stage("rollout", Ins, Outs, Config, rollout, version=7)
