"""The loss of the supervised update (Decision Mamba section 4).

    L = w_action (a_hat - target)^2 + w_state huber(s_hat - s_next) + w_return huber(R_hat - R_next)

All numbers are in the model's units. Each term is a mean over the numbers of a step and over steps. The action term counts all
steps that are not padding. The other two count the steps that have a next step. huber(x) is x^2 / 2 up to |x| = 1 and
|x| - 1/2 beyond. A policy without auxiliary heads has only the action term, with weight 1.
Shapes: B windows, K steps.
"""

from __future__ import annotations

from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from instar.components.continuous.model import ContinuousOutput
from instar.components.update.sequence.samples import Sample

Weights: TypeAlias = tuple[float, float, float]


Losses: TypeAlias = dict[str, Tensor]
"""By name: `loss`, and its parts without their weights: `loss/action`, and with auxiliary heads `loss/state`, `loss/return`."""


def batch_losses(out: ContinuousOutput, sample: Sample, weights: Weights) -> Losses:
    """Return the losses of a minibatch as scalars. Every step counts the same, in a long window and in a short one."""
    return _losses(out, sample, weights, None)


def window_losses(out: ContinuousOutput, sample: Sample, weights: Weights) -> Losses:
    """Return the losses of each window, [B]. If no step of a window has a next step, its state and return parts are 0."""
    return _losses(out, sample, weights, 1)


def action_loss(out: ContinuousOutput, sample: Sample, target: Tensor) -> Tensor:
    """Return the action term of a minibatch against another target [B, K, A]."""
    return _mean((out.actions - target).square().mean(-1), sample.mask, None)


def _losses(out: ContinuousOutput, sample: Sample, weights: Weights, dim: int | None) -> Losses:
    action = _mean((out.actions - sample.target).square().mean(-1), sample.mask, dim)
    if out.next_states is None or out.next_returns is None:
        return {"loss": action, "loss/action": action}
    errors = F.smooth_l1_loss(out.next_states, sample.next_states, reduction="none", beta=1.0).mean(-1)
    state = _mean(errors, sample.follows, dim)
    errors = F.smooth_l1_loss(out.next_returns, sample.next_returns, reduction="none", beta=1.0)
    returns = _mean(errors, sample.follows, dim)
    total = weights[0] * action + weights[1] * state + weights[2] * returns
    return {"loss": total, "loss/action": action, "loss/state": state, "loss/return": returns}


def _mean(values: Tensor, where: Tensor, dim: int | None) -> Tensor:
    """Return the mean of `values` [B, K] where `where` is true, over all or over dimension `dim`. The mean of nothing is 0."""
    return values.masked_fill(~where, 0.0).sum(dim) / where.sum(dim).clamp(min=1)
