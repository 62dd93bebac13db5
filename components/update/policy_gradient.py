"""GRPO and its relatives, from scored rollouts to the next policy. Read this file from top to bottom.

    rollouts, scores                   several answers o_1 .. o_G to each prompt, each with a reward r_i
          |  update_batch.join
          v
    groups (UpdateBatch)               the answers to one prompt are one group
          |  token_advantages          A_i = (r_i - mean(r)) / (std(r) + eps), the same for every token of o_i
          v
    advantages
          |  keep_groups               a filter may leave groups out, such as those whose answers are all right
          v
    groups to train on
          |  minibatches               shuffled and dealt whole: one minibatch for each optimiser step
          v
    for each epoch, for each minibatch:                                              (`optimise`)
        for each micro-batch, which is what one forward pass holds:                  (`loss`)
            forward        log pi(o_t) of every action token, and its entropy H_t
            ratio          w_t = pi(o_t) / pi_old(o_t), where pi_old is the policy before the first step
            clipped loss   l_t = -min(w_t A, clip(w_t, 1 - eps_low, 1 + eps_high) A)
            KL             l_t + beta KL_t, the distance to a frozen reference policy
            entropy        l_t - c H_t
            normaliser     L = sum_i weight_i sum_t l_t; GRPO has weight_i = 1 / (B |o_i|) for B answers
            backward       gradients of all micro-batches add up
        step               AdamW, with the norm of the gradient clipped
          |
          v
    policy, trainer state              what the next update continues from
    metrics, statistics of each arm    what a reader and the curriculum learn from

The functions come in the order of reading: `improve` calls `train`, `train` calls `optimise`, `optimise` calls `loss`.
In the configuration eps_low, eps_high, beta and c are `clip_low`, `clip_high`, `kl.coef` and `entropy_coef`.

GRPO is from DeepSeekMath (arXiv 2402.03300, section 4.1). Its relatives change some of its steps, and each of these axes
has a file: `advantages` (RLOO, Dr. GRPO), `losses` (PPO-clip, GSPO, CISPO), `kl`, `aggregate` (the normaliser), `filters` and
`overlong` (DAPO), `critic` (PPO), `mismatch` (a sampler that computes other probabilities than the trainer) and
`optimizer`. `presets` has the settings of every published method.

Shapes: N rollouts, M action tokens of all rollouts, m action tokens of a micro-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from instar.components import policy_io
from instar.components.update import comparison, inputs, kl, losses, memory, metrics, mismatch, stats
from instar.components.update.bad_batch import Dump, saved_on_error
from instar.components.update.batching import Micro, micro_batches
from instar.components.update.critic import predicted_values, value_loss
from instar.components.update.filters import keep_groups
from instar.components.update.forward import as_loaded, score
from instar.components.update.learner import Learner, master_dtype
from instar.components.update.measure import measure
from instar.components.update.minibatches import Minibatch, minibatches, same_passes
from instar.components.update.per_token import PerToken, per_token
from instar.components.update.publish import publish
from instar.components.update.token_advantages import reads_the_model, token_advantages
from instar.components.update.trace import Outcome, Trace, new_trace
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context, Metrics
from instar.errors import NumericsError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import Ins, Outs


def improve(ins: Ins, outs: Outs, config: PolicyGradientConfig, ctx: Context) -> Metrics:
    """Train the policy on one batch of scored rollouts.

    A rollout whose score is not a number is left out and counted. If a loss or a gradient is not finite, or if trainer
    and sampler disagree, an error is raised before anything is written. The batch is then saved in the scratch folder.
    """
    # Rollouts, scores and prompts become groups. The layout of a forward pass is chosen for their lengths.
    data, config, dump = inputs.read(ins, config, ctx)
    config, plan = inputs.fit_memory(ins, config, data, ctx)
    reference = inputs.reference_model(ins.reference, ins.policy, config, ctx)
    learner = Learner(policy_io.take_model(ins.policy, ctx), config, ctx, ins.trainer, ins.policy)
    # Where the reference is the policy itself, the policy answers for it before it is trained.
    frozen = learner.compute if reference is None else reference

    outcome = train(learner, data, config, ctx, frozen, dump)

    as_loaded(frozen)
    outs.stats.write(stats.arm_stats(config, data, outcome.abs_advantage, outcome.trained_groups))
    publish(learner, outcome, ins.policy, outs, ctx)
    return {**metrics.collect(config, data, outcome), **memory.metrics(plan)}


def train(
    learner: Learner, data: UpdateBatch, config: PolicyGradientConfig, ctx: Context, reference: Any, dump: Dump
) -> Outcome:
    """Change `learner.model` by one update and return what happened.

    `reference` is the frozen model. It may be `learner.compute` itself, because it is only used before the first step.
    """
    every_pass = micro_batches(data, np.flatnonzero(data.valid), config.micro_batch_tokens, config.packing)
    comparison.check_model(learner, data, every_pass, config, ctx, dump)

    # A_i = (r_i - mean(r)) / (std(r) + eps) over the group of o_i       (section 4.1.2: outcome supervision)
    # GRPO needs no model for it. A critic does, and so does a KL term that is part of the reward.
    before = measure(learner, data, every_pass, config, reference) if reads_the_model(config) else None
    advantages = token_advantages(config, data, before)

    # Groups that teach nothing may be left out                          (DAPO, arXiv 2503.14476, section 3.2)
    rows = np.flatnonzero(data.valid)
    trained_groups = keep_groups(config.filter, data.correct[rows], data.group[rows], data.num_groups, data.own_choice)
    steps = minibatches(config, data, trained_groups, advantages, ctx)
    passes = [micro for step in steps for micro in step.micros]
    trace = new_trace(data, steps)

    # log pi_old and log pi_ref, without gradient. They come from the same forward passes as those of the training, so the
    # first ratio is exactly 1. With a single optimiser step, pi_old is what that step computes: no pass is spent on it.
    if before is None or not same_passes(passes, every_pass):
        needs_old = config.epochs * len(steps) > 1 or reads_the_model(config)
        before = measure(learner, data, passes, config, reference, with_policy=needs_old)
    tokens = per_token(learner, data, advantages, before)
    if tokens.old is not None or not passes:
        comparison.before_training(learner, data, passes or every_pass[:1], tokens, config, trace, dump)

    for _ in range(config.epochs):
        for step in steps:
            optimise(learner, step, tokens, config, trace, dump)
            ctx.heartbeat(f"optimizer step {learner.optimizer.steps}", {})

    taken = [step.micros for _ in range(config.epochs) for step in steps]
    learner.ranks.gather(trace, taken, master_dtype(config), learner.device)
    learner.updates += bool(trace.grad_norms)
    return Outcome(trained_groups=trained_groups, abs_advantage=advantages.abs_mean, trace=trace)


def optimise(
    learner: Learner, step: Minibatch, tokens: PerToken, config: PolicyGradientConfig, trace: Trace, dump: Dump
) -> None:
    """Add up the gradient of one minibatch and take one optimiser step.

    A minibatch in which every advantage is 0 has no micro-batch. It is skipped and counted.
    """
    if not step.micros:
        trace.skipped += 1
        return
    weights = torch.from_numpy(step.weights).to(device=learner.device, dtype=master_dtype(config))
    learner.optimizer.zero_grad()
    total, pairs = 0.0, []
    for micro, counts in learner.ranks.share(step.micros):
        # With several processes, one that has no pass of its own left repeats a pass, and that counts for nothing.
        part, pair = loss(learner, micro, weights, step.num_tokens, tokens, config, trace if counts else Trace())
        part = part if counts else 0.0 * part
        with saved_on_error([micro], dump):
            total += _finite(part, micro)
        part.backward()  # type: ignore[no-untyped-call]
        pairs += [pair] if counts else []
    if tokens.old is None:  # this step computed log pi_old itself: compare it before its gradient is used
        comparison.in_step(learner, pairs, step.micros, tokens, config, trace, dump)
    trace.lrs.append(learner.optimizer.lr())
    with saved_on_error(step.micros, dump):
        trace.grad_norms.append(learner.step())
    trace.losses.append(learner.ranks.total(total, learner.device))


def loss(
    learner: Learner,
    micro: Micro,
    weights: Tensor,
    num_tokens: int,
    tokens: PerToken,
    config: PolicyGradientConfig,
    trace: Trace,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return a micro-batch's share of the minibatch loss, and log-probabilities of its tokens by trainer and sampler, two [m].

    `weights` [N] are the weights of the rollouts in the minibatch. `num_tokens` is its number of action tokens.
    """
    here = micro.to(learner.device)
    out = score(learner.compute, here, config)
    at, sequence, num_sequences = here.tokens, here.sequence, len(here.rows)
    old = out.logp.detach() if tokens.old is None else tokens.old[at]
    sampler, advantage = tokens.sampler[at], tokens.advantage[at]

    # w_t = pi(o_t) / pi_old(o_t), as a logarithm                                    (eq. 3)
    log_w = losses.log_ratio(out.logp, old, sequence, num_sequences, config.ratio)
    # l_t = -min(w_t A, clip(w_t, 1 - eps_low, 1 + eps_high) A)                      (eq. 3)
    token = losses.token_loss(config, out.logp, log_w, advantage)
    # l_t <- min(pi_old / pi_sampler, C) l_t, which corrects for a sampler that computes other probabilities
    token = token * mismatch.weights(config.mismatch, old, sampler, sequence, num_sequences)
    if tokens.ref is not None:
        ref = tokens.ref[at]
        if config.kl.place == "loss":
            # l_t <- l_t + beta (pi_ref / pi - log(pi_ref / pi) - 1)                 (eq. 4: k3)
            token = token + config.kl.coef * kl.token_penalty(config.kl.kind, out.logp, ref, out.logp - old)
        trace.kl.append((kl.k1(out.logp.detach(), ref), kl.k3(out.logp.detach(), ref)))
    if config.entropy_coef:
        # l_t <- l_t - c H_t
        token = token - config.entropy_coef * out.entropy
    # L = sum_i weight_i sum_t l_t. In GRPO: 1 / B sum_i 1 / |o_i| sum_t l_t         (eq. 3)
    total = (token * weights[here.rows][sequence]).sum()
    if learner.critic is not None and tokens.values is not None and tokens.returns is not None:
        # PPO only: the critic learns to predict the returns
        values = predicted_values(learner.critic, out.hidden)
        errors = value_loss(values, tokens.values[at], tokens.returns[at], config.value_clip)
        total = total + config.vf_coef * errors.sum() / num_tokens
        trace.values.append((values.detach(), tokens.returns[at]))
    trace.add_pass(micro.tokens, log_w, out.entropy, losses.clip_shares(config, log_w, advantage))
    return total, (old, sampler)


def _finite(part: Tensor, micro: Micro) -> float:
    """Return a micro-batch's loss as a number. If it is not finite, raise `NumericsError`."""
    value = float(part.detach())
    if not np.isfinite(value):
        raise NumericsError(
            expected="a finite loss",
            found=str(value),
            where=f"update.loss of {len(micro.rows)} rollouts",
            action="look at the saved batch",
        )
    return value
