"""What the loss reads of every action token, on the device. No optimiser step changes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instar.components.update.advantages import Bools, Floats
from instar.components.update.learner import Learner, master_dtype
from instar.components.update.measure import Before
from instar.components.update.token_advantages import Advantages
from instar.components.update.update_batch import UpdateBatch


@dataclass(frozen=True, kw_only=True)
class PerToken:
    """One entry for each action token of all rollouts, [M]."""

    prompt: Tensor
    """number of its group"""
    current: Tensor
    """whether the policy itself sampled it, rather than an older one"""
    sampler: Tensor
    """log-probability that the sampler recorded"""
    advantage: Tensor
    """A"""
    old: Tensor | None
    """log pi_old; None while the only optimiser step computes it itself"""
    ref: Tensor | None
    """log pi_ref"""
    values: Tensor | None
    """the critic's values before the update"""
    returns: Tensor | None
    """what the critic shall predict"""


def per_token(learner: Learner, data: UpdateBatch, advantages: Advantages, before: Before) -> PerToken:
    """Return the advantages and what was measured before the update, on the learner's device and in its number type."""

    def tensor(values: Floats) -> Tensor:
        return torch.from_numpy(values.astype(np.float64)).to(device=learner.device, dtype=master_dtype(learner.config))

    return PerToken(
        prompt=torch.from_numpy(np.repeat(data.group, data.lengths)).to(learner.device),
        current=torch.from_numpy(np.repeat(_current(learner, data), data.lengths)).to(learner.device),
        sampler=tensor(data.behaviour),
        advantage=tensor(advantages.token),
        old=None if bool(before.logp.isnan().all()) else before.logp,
        ref=before.ref,
        values=before.values,
        returns=None if advantages.returns is None else tensor(advantages.returns),
    )


def _current(learner: Learner, data: UpdateBatch) -> Bools:
    """Return which rollouts the policy itself sampled, [N]. A learner without a name takes all of them as its own."""
    return np.asarray([not learner.row_name or policy == learner.row_name for policy in data.policy], dtype=np.bool_)
