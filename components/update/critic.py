"""A value head on the policy's hidden states, advantage estimation (arXiv 1506.02438) and the clipped value loss.

Steps are a rollout's action tokens in order; observations between them take no step.
Shapes: M action tokens of all rollouts, concatenated; offsets [N + 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components.update.advantages import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor, nn


def value_head(hidden_size: int) -> nn.Linear:
    """Return the head, started at 0: the first values are 0 and draw no random number."""
    from torch import nn

    head = nn.Linear(hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def predicted_values(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Return the values [m] of hidden states [m, H]; the head computes in its own number type."""
    return head(hidden.to(head.weight.dtype)).squeeze(1)


def gae(rewards: Floats, values: Floats, offsets: Ints, gamma: float, lam: float) -> Floats:
    """Return A_t = sum_l (gamma lam)^l (r + gamma V' - V)_{t+l}, [M], where V' is the next value, 0 after the last."""
    lengths = np.diff(offsets)
    if not len(lengths) or not len(values):
        return np.zeros_like(values)
    inside = np.arange(int(lengths.max())) < lengths[:, None]
    r, v = (np.zeros(inside.shape) for _ in range(2))
    r[inside], v[inside] = rewards, values
    out = np.zeros(inside.shape)
    next_value, next_advantage = np.zeros(len(lengths)), np.zeros(len(lengths))
    for t in reversed(range(inside.shape[1])):
        # Past its last token a row is 0, so the recursion starts there by itself.
        delta = r[:, t] + gamma * next_value - v[:, t]
        next_advantage = np.where(inside[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = v[:, t]
        out[:, t] = next_advantage
    return np.asarray(out[inside], dtype=np.float64)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return 0.5 max((V - R)^2, (V_old + clip(V - V_old, +-clip) - R)^2) per token, [M]."""
    import torch

    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
