"""Rollout: the policy acts on the drawn tasks, and every act is recorded.

There are two strategies. `sample` lets the policy answer prompts, and records every token with its log-probability. `propose`
is for recipes that learn offline: it cuts windows of logged trajectories and records the actions that the policy would have
taken there.

A batch may be split into shards. Shard i of n works on the slots i, i + n, i + 2n, ... of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Batch, Policy, Rollouts, Tasks
from instar.components.rollout.config import Config
from instar.contract import Context, Metrics, Shard, Stage
from instar.rows import BatchRow


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The acting policy, all tasks, and the batch of drawn tasks.

    Where they exist, also logged trajectories (`data`) and the tasks that the evolution made (`generated`).
    """

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
    """One row per sample or window, in the order of the batch."""

    rollouts: Rollouts


def rollout(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Act on the slots of this shard."""
    return config.run(ins, outs, ctx)


STAGE = Stage("rollout", Ins, Outs, Config, rollout, version=7)
