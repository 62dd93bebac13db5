"""The policy-gradient update: scored rollouts in, a better policy and the state to go on from out, and what each arm taught.

Scores that are not numbers are left out and counted. Nothing is written when a number is not finite or trainer and
sampler disagree; the batch is then saved in the scratch folder.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from instar.artifact import Policy
from instar.components import policy_io
from instar.components.rollout.engines import ENGINE
from instar.components.update import batching, forward, inputs, memory, metrics, stats, trainer, update_batch
from instar.components.update.learner import Learner
from instar.components.update.learner import device as device_of
from instar.contract import Context, Metrics

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import Ins, Outs


def improve(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context) -> Metrics:
    """Train the policy on one batch of scored rollouts."""
    inputs.check(ins.policy, ins.trainer, ins.reference, config, ctx)
    rollouts, scores = ins.rollouts.table(), ins.scores.table()
    data = update_batch.join(ins.batch.table(), rollouts, scores, config.min_group)
    inputs.check_rollouts(data, ins.policy, config)
    config = resolve(config, data, ins.policy)
    ctx.resident.drop_all(ENGINE)  # the sampler's weights make room before the plan looks at what is free
    frozen_needed, device = inputs.needs_reference(ins.reference, ins.policy, config), device_of(config)
    counted = [ins.policy.digest, ins.trainer.digest if ins.trainer else ""]
    counted += [ins.reference.digest] if frozen_needed and ins.reference else []
    held = memory.held_bytes(ctx.resident, counted, device)
    plan = memory.decide(ins.policy, config, data, frozen_needed, device, held)
    config = dataclasses.replace(config, gradient_checkpointing="on" if plan.checkpointing else "off")
    ctx.heartbeat(memory.line(plan, config.packing), memory.metrics(plan))
    reference = inputs.reference_model(ins.reference, ins.policy, config, ctx)

    learner = Learner(policy_io.take_model(ins.policy, ctx), config, ctx, ins.trainer, ins.policy)
    dump = inputs.dumper(data, rollouts, scores, ctx.scratch / "bad-batch")
    frozen = learner.compute if reference is None else reference
    outcome = trainer.train(learner, data, config, ctx, frozen, dump)
    forward.as_loaded(frozen)
    outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.kept))
    write(learner, outcome, ins.policy, outs, ctx)
    return {**metrics.collect(config, data, outcome), **memory.metrics(plan)}


def write(learner: Learner, outcome: trainer.Outcome, source: Policy, outs: Outs, ctx: Context) -> None:
    """Write the next policy and its trainer state, and leave in memory what spares the next stages reading them."""
    if outcome.trace.grad_norms or (source.path / policy_io.RESIDENT).is_file():
        learner.export_adapter(outs.policy)
    model = learner.save(outs.trainer, outcome.trace.normalisers, ctx)
    if learner.fingerprint == learner.source:  # the same weights may get another digest, and have to say the same
        ctx.resident.drop_all(policy_io.CANARY)
    if not outcome.trace.grad_norms:
        policy_io.keep_policy(model, source, outs.policy, ctx)
        return
    policy_io.save_policy(model, source, outs.policy, ctx, learner.fingerprint)


def resolve(config: PolicyGradientConfig, data: update_batch.UpdateBatch, policy: Policy) -> PolicyGradientConfig:
    """Return the configuration with the layout chosen. Packed masks know no sliding window, so rows as wide as one stay alone."""
    if config.packing != "auto":
        return config
    shape = policy.read_json("config.json")
    window = shape.get("text_config", shape).get("sliding_window")
    if window and data.widths[data.valid].max(initial=0) >= window:
        return dataclasses.replace(config, packing="none")
    layout = batching.choose(data, np.flatnonzero(data.valid), config.micro_batch_tokens)
    return dataclasses.replace(config, packing="prefix" if layout == "prefix" else "none")
