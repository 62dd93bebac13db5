"""Everything an update fixes before its first optimiser step: advantages, kept groups, minibatches and their weights.

Shapes: N rollouts, G groups, M action tokens of all rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from instar.components.update import aggregate, critic, filters, overlong
from instar.components.update.advantages import Bools, Floats, Ints, advantages, whiten
from instar.components.update.batching import Micro, micro_batches
from instar.components.update.update_batch import UpdateBatch, ragged
from instar.contract import Context

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What the policy says before the update, NaN where it was not asked: log-probabilities and values, [M]."""

    rows: Ints
    logp: Tensor
    values: Tensor | None
    ref: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Per action token [M], per rollout mean of |A| [N], value targets [M] of a critic. 0 outside valid rollouts."""

    token: Floats
    abs_mean: Floats
    returns: Floats | None


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """One optimiser step: its forward passes, the loss weight of every rollout [N], and its normalisers."""

    micros: tuple[Micro, ...]
    weights: Floats
    normaliser: float
    num_tokens: int


def needs_prior(config: PolicyGradientConfig) -> bool:
    """Whether advantages need the model: a critic's values, or a divergence inside the reward."""
    return config.baseline == "critic" or config.kl.place == "reward"


def compute(config: PolicyGradientConfig, data: UpdateBatch, prior: Prior | None) -> Advantages:
    """Return the advantages of all valid rollouts, before any filter."""
    rows = np.flatnonzero(data.valid)
    lengths = data.lengths[rows]
    reward = overlong.shaped(config.overlong, data.reward[rows], lengths)
    at = ragged(data.action_offset[rows], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    penalty = _penalty(config, prior, at)
    token, abs_mean = np.zeros(len(data.behaviour)), np.zeros(len(data.group))
    returns = None
    if config.baseline == "critic":
        assert prior is not None and prior.values is not None
        values = _floats(prior.values)[at]
        token_reward = -penalty
        token_reward[offsets[1:] - 1] += reward
        a = critic.gae(token_reward, values, offsets, config.gamma, config.lam)
        returns = np.zeros(len(data.behaviour))
        returns[at] = a + values
        token[at] = whiten(a, np.ones_like(a), config.eps) if config.scale == "whiten" else a
    else:
        reward = reward - np.add.reduceat(penalty, offsets[:-1]) if len(rows) else reward
        a = advantages(
            reward,
            data.group[rows],
            data.num_groups,
            baseline=config.baseline,
            scale=config.scale,
            eps=config.eps,
            lengths=lengths,
        )
        token[at] = np.repeat(a, lengths)
    if len(rows):
        abs_mean[rows] = np.add.reduceat(np.abs(token[at]), offsets[:-1]) / lengths
    return Advantages(token=token, abs_mean=abs_mean, returns=returns)


def _penalty(config: PolicyGradientConfig, prior: Prior | None, at: Ints) -> Floats:
    if config.kl.place != "reward":
        return np.zeros(len(at))
    assert prior is not None and prior.ref is not None
    return config.kl.coef * (_floats(prior.logp)[at] - _floats(prior.ref)[at])


def _floats(values: Tensor) -> Floats:
    return np.asarray(values.double().cpu().numpy())


def kept_groups(config: PolicyGradientConfig, data: UpdateBatch) -> Bools:
    """Return the groups that reach the optimiser, [G]."""
    rows = np.flatnonzero(data.valid)
    return filters.keep_groups(config.filter, data.correct[rows], data.group[rows], data.num_groups)


def minibatches(
    config: PolicyGradientConfig, data: UpdateBatch, kept: Bools, found: Advantages, ctx: Context
) -> list[Minibatch]:
    """Return the optimiser steps of one epoch: kept groups, shuffled by key and dealt whole; epochs repeat them.

    A rollout whose advantage is 0 everywhere adds nothing to a loss without other terms: it is counted in the
    normaliser and costs no forward pass.
    """
    groups = np.flatnonzero(kept)
    if config.minibatches > 1:
        groups = np.random.Generator(np.random.PCG64(ctx.seed("minibatches"))).permutation(groups)
    parts = np.array_split(groups, max(1, min(config.minibatches, len(groups))))
    factor = np.asarray([config.arm_weights.get(arm, 1.0) for arm in data.arms])[data.group_arm[data.group]]
    in_loss = data.valid & overlong.included(config.overlong, data.truncated)
    others = config.kl.place == "loss" or config.entropy_coef != 0 or config.baseline == "critic"
    out = []
    for part in parts:
        chosen = in_loss & np.isin(data.group, part)
        weights = aggregate.sequence_weights(config.aggregate, data.lengths, chosen, config.max_length) * factor
        active = np.flatnonzero(chosen & (factor > 0) & (others | (found.abs_mean > 0)))
        out.append(
            Minibatch(
                micros=tuple(micro_batches(data, active, config.micro_batch_tokens, config.packing)),
                weights=weights,
                normaliser=aggregate.normaliser(config.aggregate, data.lengths, chosen, config.max_length),
                num_tokens=int(data.lengths[chosen].sum()),
            )
        )
    return out


def same_passes(a: list[Micro], b: list[Micro]) -> bool:
    """Whether two lists of forward passes have the same rows in the same places, hence the same rounding."""
    return len(a) == len(b) and all(torch.equal(x.rows, y.rows) for x, y in zip(a, b, strict=True))
