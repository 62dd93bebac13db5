"""Update: scored rollouts in, a better policy and the state to go on from out, plus what each arm taught.

Scores that are not numbers are left out and counted. Nothing is written when a number is not finite or trainer and sampler
disagree; the batch is then saved in the scratch folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.update.config import Config
from instar.contract import Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The policy that acted, its trainer state (none only at step 0), what it did, and the frozen reference of a KL term."""

    policy: Policy
    trainer: TrainerState | None
    batch: Batch
    rollouts: Rollouts
    scores: Scores
    reference: Policy | None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The next policy with its trainer state, and the statistics a curriculum learns from."""

    policy: Policy
    trainer: TrainerState
    stats: ArmStats


def update(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Train the policy on one batch of scored rollouts."""
    from instar.components.update.run import run

    return run(ins, outs, config, ctx)


STAGE = Stage("update", Ins, Outs, Config, update)
