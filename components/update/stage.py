"""Update: scored rollouts in, a better policy and the state to go on from out, plus what each arm taught.

Scores that are not numbers are left out and counted. Nothing is written when a number is not finite or trainer and
sampler disagree; the batch is then saved in the scratch folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.update.config import Config
from instar.contract import Context, Metrics, Stage
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The policy that acted, its trainer state (none only at step 0), what it did, and the reference of a KL term."""

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
    from instar.components import policy_io
    from instar.components.update import experience, inputs, learner, memory, metrics, stats, trainer

    check_alone(os.environ)
    inputs.check(ins.policy, ins.trainer, ins.reference, config, ctx)
    rollouts, scores = ins.rollouts.table(), ins.scores.table()
    data = experience.join(ins.batch.table(), rollouts, scores, config.min_group)
    inputs.check_rollouts(data, ins.policy, config)
    reference = inputs.reference_model(ins.reference, ins.policy, config, ctx)
    plan = memory.plan(ins.policy, config, data, reference is not None)
    memory.check(plan, learner.device(config), config)

    student = learner.Learner(policy_io.take_model(ins.policy, ctx), config, ctx, ins.trainer)
    dump = inputs.dumper(data, rollouts, scores, ctx.scratch / "bad-batch")
    frozen = student.model if reference is None else reference
    outcome = trainer.train(student, data, config, ctx, frozen, dump)
    outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.kept))
    model = student.save(outs.trainer, outcome.trace.normalisers)
    if outcome.trace.grad_norms:
        policy_io.save_policy(model, ins.policy, outs.policy, ctx)
    else:
        policy_io.copy_policy(ins.policy, outs.policy)
    return {**metrics.collect(config, data, outcome), **memory.metrics(plan)}


def check_alone(environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` in one of several processes that a launcher started: each of them would train the whole batch."""
    for name in ("WORLD_SIZE", "PET_NNODES"):
        if environment.get(name, "1") not in ("", "1"):
            raise ConfigError(
                expected="one process for an update",
                found=f"{name}={environment[name]}",
                where="update",
                action="run the update on one node without torchrun; training is not data-parallel",
            )


STAGE = Stage("update", Ins, Outs, Config, update)
