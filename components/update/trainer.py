"""The update itself: measure, weigh, step. Rollouts and scores in, a changed model out.

Old log-probabilities come from the same forward passes as the update's, so the first ratio is exactly 1; with a single
optimiser step they are the update's own, and no second pass runs. The sampler's are compared in both cases, before
any step.
Shapes: N rollouts, M action tokens of all rollouts, m of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from instar.components.update import kl, losses, mismatch, prepare
from instar.components.update.advantages import Bools, Ints
from instar.components.update.batching import Micro, micro_batches, padding_ratio
from instar.components.update.critic import value_loss
from instar.components.update.forward import check_forward, score
from instar.components.update.learner import Learner
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context
from instar.errors import NumericsError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

Dump = Callable[[Ints], Path]


@dataclass
class Trace:
    """What the optimiser steps saw, gathered for metrics. Lists of per-token tensors, one entry per micro-batch."""

    log_w: list[Tensor] = field(default_factory=list)
    clipped: list[tuple[int, int]] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    kl: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    normalisers: list[float] = field(default_factory=list)
    skipped: int = 0
    padding: float = 1.0
    gap: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the stage reports: groups that were trained on [G], mean |A| per rollout [N], and the trace."""

    kept: Bools
    abs_advantage: np.ndarray[Any, np.dtype[np.float64]]
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class _Constants:
    """Per action token [M], on the device; `prompt` numbers the groups, `current` says that the policy itself acted."""

    prompt: Tensor
    current: Tensor
    behaviour: Tensor
    advantage: Tensor
    old: Tensor | None
    ref: Tensor | None
    values: Tensor | None
    returns: Tensor | None


def train(
    learner: Learner, data: UpdateBatch, config: PolicyGradientConfig, ctx: Context, reference: Any, dump: Dump
) -> Outcome:
    """Change `learner.model` by one update and return what happened.

    `reference` is the frozen model, or `learner.compute` itself while nothing has been trained, or None. Raises
    `NumericsError` before the step that would have used a bad number; `dump` saves the rollouts it came from.
    """
    everything = micro_batches(data, np.flatnonzero(data.valid), config.micro_batch_tokens, config.packing)
    if everything:
        rows = everything[-1].rows[:3].numpy()
        try:
            check_forward(learner.compute, data, rows, config, ctx.resident)
        except NumericsError as error:
            raise _dumped(error, everything[-1:], dump) from error
    prior = measure(learner, data, everything, config, reference) if prepare.needs_prior(config) else None
    found = prepare.compute(config, data, prior)
    kept = prepare.kept_groups(config, data)
    steps = prepare.minibatches(config, data, kept, found, ctx)
    micros = [micro for step in steps for micro in step.micros]
    trace = Trace(normalisers=[step.normaliser for step in steps])
    trace.padding = (
        padding_ratio(micros, int(sum(data.widths[m.rows.numpy()].sum() for m in micros))) if micros else 1.0
    )
    if prior is None or not prepare.same_passes(micros, everything):
        several = config.epochs * len(steps) > 1
        prior = measure(learner, data, micros, config, reference, policy=several or prepare.needs_prior(config))
    constants = _constants(learner, data, found, prior)
    if constants.old is not None or not micros:
        _compare_first(learner, data, micros or everything[:1], constants, config, trace, dump)
    for _ in range(config.epochs):
        for step in steps:
            _optimise(learner, step, constants, config, trace, dump)
            ctx.heartbeat(f"optimizer step {learner.optimizer.steps}", {})
    taken = [step.micros for _ in range(config.epochs) for step in steps]
    learner.ranks.gather(trace, taken, _kind(learner), learner.device)  # pyright: ignore[reportArgumentType]
    learner.updates += bool(trace.grad_norms)
    return Outcome(kept=kept, abs_advantage=found.abs_mean, trace=trace)


def measure(
    learner: Learner,
    data: UpdateBatch,
    micros: list[Micro],
    config: PolicyGradientConfig,
    reference: Any,
    policy: bool = True,
) -> prepare.Prior:
    """Return log-probabilities, values and reference log-probabilities of `micros` without gradient, NaN elsewhere."""
    empty = torch.full((len(data.behaviour),), torch.nan, dtype=_kind(learner), device=learner.device)
    logp, values, ref = empty, None, None
    with torch.no_grad():
        if policy:
            logp = empty.clone()
            values = empty.clone() if learner.critic is not None else None
            found, judged = [], []
            for micro, counts in learner.ranks.share(micros):
                out = score(learner.compute, micro.to(learner.device), config)
                found += [out.logp] if counts else []
                if learner.critic is not None:
                    judgement = learner.critic(out.hidden.to(learner.critic.weight.dtype)).squeeze(1)
                    judged += [judgement] if counts else []
            _fill(learner, logp, found, micros)
            if values is not None:
                _fill(learner, values, judged, micros)
        if config.kl.place != "none":
            ref = empty.clone()
            shared = learner.ranks.share(micros)
            passes = [(score(reference, micro.to(learner.device), config).logp, counts) for micro, counts in shared]
            _fill(learner, ref, [found for found, counts in passes if counts], micros)
    return prepare.Prior(rows=np.arange(0), logp=logp, values=values, ref=ref)


def _fill(learner: Learner, values: Tensor, mine: list[Tensor], micros: list[Micro]) -> None:
    everywhere = learner.ranks.everywhere(mine, micros, values.dtype, learner.device)
    for micro, found in zip(micros, everywhere, strict=True):
        values[micro.tokens.to(values.device)] = found.to(values.dtype)


def _kind(learner: Learner) -> torch.dtype:
    return torch.float64 if learner.config.dtype == "float64" else torch.float32


def _constants(learner: Learner, data: UpdateBatch, found: prepare.Advantages, prior: prepare.Prior) -> _Constants:
    def tensor(values: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        return torch.from_numpy(values.astype(np.float64)).to(device=learner.device, dtype=_kind(learner))

    return _Constants(
        prompt=torch.from_numpy(np.repeat(data.group, data.lengths)).to(learner.device),
        current=torch.from_numpy(np.repeat(_current(learner, data), data.lengths)).to(learner.device),
        behaviour=tensor(data.behaviour),
        advantage=tensor(found.token),
        old=None if bool(prior.logp.isnan().all()) else prior.logp,
        ref=prior.ref,
        values=prior.values,
        returns=None if found.returns is None else tensor(found.returns),
    )


def _current(learner: Learner, data: UpdateBatch) -> Bools:
    """Return which rollouts the policy itself made, [N]; all where the learner does not say whose it is."""
    return np.asarray([not learner.row_name or policy == learner.row_name for policy in data.policy], dtype=np.bool_)


def _compare_first(
    learner: Learner,
    data: UpdateBatch,
    micros: list[Micro],
    constants: _Constants,
    config: PolicyGradientConfig,
    trace: Trace,
    dump: Dump,
) -> None:
    """Compare trainer and sampler before the first step; when nothing will be trained, on one forward pass."""
    old = constants.old if constants.old is not None else measure(learner, data, micros, _no_kl(config), None).logp
    if micros:
        at = torch.cat([micro.tokens for micro in micros]).to(learner.device)
        _alarm(config, trace, [(old[at], constants.behaviour[at])], constants, micros, dump)


def _no_kl(config: PolicyGradientConfig) -> PolicyGradientConfig:
    import dataclasses

    from instar.components.update.terms import Kl

    return dataclasses.replace(config, kl=Kl())


def _alarm(
    config: PolicyGradientConfig,
    trace: Trace,
    pairs: list[tuple[Tensor, Tensor]],
    constants: _Constants,
    micros: list[Micro],
    dump: Dump,
) -> None:
    limits, old, behaviour = mismatch.limits(config), *(torch.cat(side) for side in zip(*pairs, strict=True))
    at = torch.cat([micro.tokens for micro in micros]).to(constants.prompt.device)
    now = constants.current[at]
    trace.gap = mismatch.measure(limits, old[now], behaviour[now], constants.prompt[at][now])
    trace.gap |= mismatch.measure_older(config.mismatch, old[~now], behaviour[~now])
    try:
        mismatch.alarm(limits, trace.gap, "update.mismatch", rounded=config.dtype == "bfloat16")
    except NumericsError as error:
        raise _dumped(error, micros, dump) from error


def _optimise(
    learner: Learner,
    step: prepare.Minibatch,
    constants: _Constants,
    config: PolicyGradientConfig,
    trace: Trace,
    dump: Dump,
) -> None:
    """Accumulate the gradient of one minibatch and step once. A minibatch without any signal is skipped and counted."""
    if not step.micros:
        trace.skipped += 1
        return
    weights = torch.from_numpy(step.weights).to(device=learner.device, dtype=_kind(learner))
    learner.optimizer.zero_grad()
    total, pairs = 0.0, []
    for micro, counts in learner.ranks.share(step.micros):
        seen = trace if counts else Trace()
        loss, pair = _loss(learner, micro, weights, step.num_tokens, constants, config, seen)
        loss = loss if counts else 0.0 * loss
        value = float(loss.detach())
        if not np.isfinite(value):
            where = f"update.loss of {len(micro.rows)} rollouts"
            error = NumericsError(
                expected="a finite loss", found=str(value), where=where, action="look at the saved batch"
            )
            raise _dumped(error, [micro], dump)
        loss.backward()  # type: ignore[no-untyped-call]
        total += value
        pairs += [pair] if counts else []
    if constants.old is None:
        pairs = _all_pairs(learner, pairs, step.micros)
        _alarm(config, trace, pairs, constants, list(step.micros), dump)
    trace.lrs.append(learner.optimizer.lr())
    try:
        trace.grad_norms.append(learner.step())
    except NumericsError as error:
        raise _dumped(error, list(step.micros), dump) from error
    trace.losses.append(learner.ranks.total(total, learner.device))


def _all_pairs(
    learner: Learner, mine: list[tuple[Tensor, Tensor]], micros: tuple[Micro, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Return (trainer, sampler) log-probabilities of the micro-batches of all processes."""
    kind, device = _kind(learner), learner.device
    sides = [learner.ranks.everywhere([pair[i] for pair in mine], micros, kind, device) for i in (0, 1)]
    return list(zip(*sides, strict=True))


def _loss(
    learner: Learner,
    micro: Micro,
    weights: Tensor,
    num_tokens: int,
    constants: _Constants,
    config: PolicyGradientConfig,
    trace: Trace,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return this micro-batch's share of the minibatch loss, and (trainer, sampler) log-probabilities [m]."""
    here = micro.to(learner.device)
    out = score(learner.compute, here, config)
    at, sequence, num = here.tokens, here.sequence, len(here.rows)
    old = out.logp.detach() if constants.old is None else constants.old[at]
    behaviour, advantage = constants.behaviour[at], constants.advantage[at]
    log_w = losses.log_ratio(out.logp, old, sequence, num, config.ratio)
    token = losses.token_loss(config, out.logp, log_w, advantage)
    token = token * mismatch.weights(config.mismatch, old, behaviour, sequence, num)
    if constants.ref is not None:
        ref = constants.ref[at]
        if config.kl.place == "loss":
            token = token + config.kl.coef * kl.token_penalty(config.kl.kind, out.logp, ref, out.logp - old)
        now = out.logp.detach()
        trace.kl.append((kl.k1(now, ref), kl.k3(now, ref)))
    if config.entropy_coef:
        token = token - config.entropy_coef * out.entropy
    loss = (token * weights[here.rows][sequence]).sum()
    if learner.critic is not None and constants.values is not None and constants.returns is not None:
        values = learner.critic(out.hidden.to(learner.critic.weight.dtype)).squeeze(1)
        errors = value_loss(values, constants.values[at], constants.returns[at], config.value_clip)
        loss = loss + config.vf_coef * errors.sum() / num_tokens
        trace.values.append((values.detach(), constants.returns[at]))
    low, high = losses.clip_shares(config, log_w, advantage)
    trace.clipped.append((int(low.sum()), int(high.sum())))
    trace.log_w.append(log_w.detach())
    trace.entropy.append(out.entropy.detach())
    trace.tokens.append(micro.tokens)
    return loss, (old, behaviour)


def _dumped(error: NumericsError, micros: list[Micro], dump: Dump) -> NumericsError:
    rows = np.concatenate([micro.rows.numpy() for micro in micros])
    return NumericsError(
        expected=error.expected,
        found=error.found,
        where=error.where,
        action=f"{error.action}; batch saved in {dump(rows)}",
    )
