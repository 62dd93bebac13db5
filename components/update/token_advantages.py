"""From rewards to one advantage for each action token. `advantages` has the formulas of the group baselines, `critic` GAE.

Shapes: N rollouts, M action tokens of all rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instar.components.update import critic, overlong
from instar.components.update.advantages import Floats, Ints, advantages, whiten
from instar.components.update.update_batch import UpdateBatch, ragged

if TYPE_CHECKING:
    from torch import Tensor

    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.measure import Before


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Advantages of all valid rollouts. Tokens of other rollouts have 0."""

    token: Floats
    """A of each action token, [M]"""
    abs_mean: Floats
    """mean |A| of each rollout, [N]"""
    returns: Floats | None
    """what a critic shall predict, [M]; None without one"""


def reads_the_model(config: PolicyGradientConfig) -> bool:
    """Whether advantages need forward passes: for a critic's values, or for a KL term inside the reward."""
    return config.baseline == "critic" or config.kl.place == "reward"


def token_advantages(config: PolicyGradientConfig, data: UpdateBatch, before: Before | None) -> Advantages:
    """Return the advantages of all valid rollouts, before any filter.

    Example: four answers to one prompt with rewards 1, 0, 0, 0. The mean is 0.25 and the unbiased standard deviation
    0.5, so GRPO gives every token of the first answer 1.5, and every token of the others -0.5 (with eps = 0).
    """
    rows = np.flatnonzero(data.valid)
    lengths = data.lengths[rows]
    reward = overlong.shaped(config.overlong, data.reward[rows], lengths)
    at = ragged(data.action_offset[rows], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    penalty = _penalty(config, before, at)
    token, abs_mean = np.zeros(len(data.behaviour)), np.zeros(len(data.group))
    returns = None
    if config.baseline == "critic":
        assert before is not None and before.values is not None
        values = _floats(before.values)[at]
        token_reward = -penalty
        token_reward[offsets[1:] - 1] += reward
        a = critic.gae(token_reward, values, offsets, config.gamma, config.lam)
        returns = np.zeros(len(data.behaviour))
        returns[at] = a + values
        token[at] = whiten(a, np.ones_like(a), config.eps) if config.scale == "whiten" else a
    elif data.own_advantage is not None:
        token[at] = np.repeat(data.own_advantage[rows], lengths)
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


def _penalty(config: PolicyGradientConfig, before: Before | None, at: Ints) -> Floats:
    """Return beta (log pi_old - log pi_ref) of the tokens `at`, which a KL term inside the reward subtracts; else 0."""
    if config.kl.place != "reward":
        return np.zeros(len(at))
    assert before is not None and before.ref is not None
    return config.kl.coef * (_floats(before.logp)[at] - _floats(before.ref)[at])


def _floats(values: Tensor) -> Floats:
    return np.asarray(values.double().cpu().numpy())
