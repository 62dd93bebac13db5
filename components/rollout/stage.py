"""Rollout: the policy acts on the drawn tasks, and the record keeps what it did.

Strategies: `sample` answers to prompts, with every token and its probability; `propose` actions on windows of logged
trajectories, for recipes that learn offline. Shard i of n works on slots i, i + n, i + 2n, ... of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Batch, Policy, Rollouts, Tasks
from instar.components.rollout.config import Config
from instar.contract import Context, Metrics, Shard, Stage
from instar.rows import BatchRow


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The acting policy, the tasks, the drawn ones; logged trajectories and tasks made by the evolution, if there are any."""

    policy: Policy
    tasks: Tasks
    batch: Batch
    data: Rollouts | None = None
    generated: Tasks | None = None

    def slots(self, shard: Shard) -> list[BatchRow]:
        """Return the slots of the batch that `shard` works on."""
        return self.batch.read()[shard.number :: shard.total]


@dataclass(frozen=True, kw_only=True)
class Outs:
    """One row per sample, in the order of the batch."""

    rollouts: Rollouts


def rollout(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Act on the slots of this shard."""
    return config.run(ins, outs, ctx)


STAGE = Stage("rollout", Ins, Outs, Config, rollout, version=7)
