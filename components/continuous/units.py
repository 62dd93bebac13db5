"""Between the environment's units and the model's: standardised states, actions in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.components.continuous.config import ContinuousTask


class Units(nn.Module):
    """Constants of a task, stored with the weights and never trained."""

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
        """Return (states - mean) / std in the model's type, for [..., S]."""
        return (states.to(self.state_mean.dtype) - self.state_mean) / self.state_std

    def from_box(self, actions: Tensor) -> Tensor:
        """Return actions [..., A] of the environment's box in [-1, 1]."""
        middle, half = self._box()
        return (actions.to(half.dtype) - middle) / half

    def to_box(self, actions: Tensor) -> Tensor:
        """Return actions [..., A] of [-1, 1] in the environment's box, never outside of it by rounding."""
        middle, half = self._box()
        return (middle + half * actions).clamp(self.action_low, self.action_high)

    def _box(self) -> tuple[Tensor, Tensor]:
        return (self.action_low + self.action_high) / 2, (self.action_high - self.action_low) / 2

    @staticmethod
    def of(task: ContinuousTask) -> dict[str, Tensor]:
        """Return the buffers' values for a task, in float32."""
        names = ("state_mean", "state_std", "action_low", "action_high")
        return {name: torch.tensor(getattr(task, name), dtype=torch.float32) for name in names}
