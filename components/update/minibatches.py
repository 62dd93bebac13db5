"""Deals groups to minibatches. One minibatch is one optimiser step.

Shapes: N rollouts, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from instar.components.update import aggregate, overlong
from instar.components.update.advantages import Bools, Floats
from instar.components.update.batching import Micro, micro_batches
from instar.components.update.token_advantages import Advantages
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """What one optimiser step trains on."""

    micros: tuple[Micro, ...]
    """its forward passes"""
    weights: Floats
    """what each rollout's summed token loss is multiplied by, [N]; 0 for rollouts of other minibatches"""
    normaliser: float
    """what divides the loss, as `aggregate` counts it"""
    num_tokens: int
    """its action tokens"""


def minibatches(
    config: PolicyGradientConfig, data: UpdateBatch, trained_groups: Bools, advantages: Advantages, ctx: Context
) -> list[Minibatch]:
    """Return the optimiser steps of one epoch. Every epoch repeats them.

    Groups are shuffled with a seed of the stage and dealt whole, so that no group is split between two steps. A rollout
    whose advantages are all 0 adds nothing to the gradient, unless there is another loss term. It costs no forward
    pass then, but it still counts in the normaliser.
    """
    groups = np.flatnonzero(trained_groups)
    if config.minibatches > 1:
        groups = np.random.Generator(np.random.PCG64(ctx.seed("minibatches"))).permutation(groups)
    parts = np.array_split(groups, max(1, min(config.minibatches, len(groups))))
    factor = np.asarray([config.arm_weights.get(arm, 1.0) for arm in data.arms])[data.group_arm[data.group]]
    in_loss = data.valid & overlong.included(config.overlong, data.truncated)
    other_terms = config.kl.place == "loss" or config.entropy_coef != 0 or config.baseline == "critic"
    out = []
    for part in parts:
        chosen = in_loss & np.isin(data.group, part)
        weights = aggregate.sequence_weights(config.aggregate, data.lengths, chosen, config.max_length) * factor
        active = np.flatnonzero(chosen & (factor > 0) & (other_terms | (advantages.abs_mean > 0)))
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
    """Whether two lists of forward passes have the same rows in the same places. Their results are then equal in every bit."""
    return len(a) == len(b) and all(torch.equal(x.rows, y.rows) for x, y in zip(a, b, strict=True))
