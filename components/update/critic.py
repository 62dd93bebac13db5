"""PPO's critic: a value head on the policy's hidden states, GAE (arXiv 1506.02438), and the clipped value loss.

A step is an action token. Tokens of an observation between two actions are no steps.
Shapes: M action tokens of all rollouts, one rollout after the other; rollout i has those from offsets[i] to offsets[i + 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components.update.advantages import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor, nn


def value_head(hidden_size: int) -> nn.Linear:
    """Return the head. Its weights start at 0, so the first values are 0 and no random number is drawn."""
    from torch import nn

    head = nn.Linear(hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def predicted_values(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Return the values [m] of hidden states [m, H]; the head computes in its own number type."""
    values: Tensor = head(hidden.to(head.weight.dtype)).squeeze(1)
    return values


def gae(rewards: Floats, values: Floats, offsets: Ints, gamma: float, lam: float) -> Floats:
    """Return A_t = sum_l (gamma lam)^l delta_{t+l}, [M], with delta_t = r_t + gamma V_{t+1} - V_t.

    V after the final token of a rollout is 0.
    """
    lengths = np.diff(offsets)
    if not len(lengths) or not len(values):
        return np.zeros_like(values)
    inside = np.arange(int(lengths.max())) < lengths[:, None]
    r, v = (np.zeros(inside.shape) for _ in range(2))
    r[inside], v[inside] = rewards, values
    out = np.zeros(inside.shape)
    next_value, next_advantage = np.zeros(len(lengths)), np.zeros(len(lengths))
    for t in reversed(range(inside.shape[1])):
        # Behind the end of a rollout everything is 0, so the recursion begins at its final token.
        delta = r[:, t] + gamma * next_value - v[:, t]
        next_advantage = np.where(inside[:, t], delta + gamma * lam * next_advantage, 0.0)
        next_value = v[:, t]
        out[:, t] = next_advantage
    return np.asarray(out[inside], dtype=np.float64)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return 0.5 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) of each token, [M]."""
    import torch

    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())
