"""Conversion between the units of the environment and those of the model: standardised states, and actions in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.components.continuous.config import ContinuousTask


class Units(nn.Module):
    """Constants of a task. They are buffers: stored with the weights, and not trained."""

    state_mean: Tensor
    state_std: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        sizes = {"state_mean": state_dim, "state_std": state_dim, "action_low": action_dim, "action_high": action_dim}
        for name, size in sizes.items():
            self.register_buffer(name, torch.empty(size))

    def standardise(self, states: Tensor) -> Tensor:
        """Return (states - mean) / std for states [..., S], in the model's number type."""
        return (states.to(self.state_mean.dtype) - self.state_mean) / self.state_std

    def from_box(self, actions: Tensor) -> Tensor:
        """Map actions [..., A] from the environment's box to [-1, 1]."""
        middle, half = self._box()
        return (actions.to(half.dtype) - middle) / half

    def to_box(self, actions: Tensor) -> Tensor:
        """Map actions [..., A] from [-1, 1] to the environment's box. Rounding never puts one outside of the box."""
        middle, half = self._box()
        return (middle + half * actions).clamp(self.action_low, self.action_high)

    def _box(self) -> tuple[Tensor, Tensor]:
        return (self.action_low + self.action_high) / 2, (self.action_high - self.action_low) / 2

    @staticmethod
    def of(task: ContinuousTask) -> dict[str, Tensor]:
        """Return the values of the buffers for a task, in float32."""
        names = ("state_mean", "state_std", "action_low", "action_high")
        return {name: torch.tensor(getattr(task, name), dtype=torch.float32) for name in names}
