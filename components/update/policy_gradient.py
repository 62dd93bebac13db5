"""The policy-gradient update: scored rollouts in, a better policy and the state to go on from out, and what each arm taught.

Scores that are not numbers are left out and counted. Nothing is written when a number is not finite or trainer and
sampler disagree; the batch is then saved in the scratch folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instar.components import policy_io
from instar.components.update import experience, inputs, learner, memory, metrics, stats, trainer
from instar.components.update.config import PolicyGradientConfig
from instar.contract import Context, Metrics

if TYPE_CHECKING:
    from instar.components.update.stage import Ins, Outs


def improve(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context) -> Metrics:
    """Train the policy on one batch of scored rollouts."""
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
