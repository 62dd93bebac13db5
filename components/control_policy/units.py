"""Between the environment's units and the model's: standardised states, actions in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.components.control_policy.config import ControlTask


class Units(nn.Module):
    """Constants of a task, stored with the weights and never trained."""

    state_mean: Tensor
    state_std: Tensor
    action_middle: Tensor
    action_half: Tensor

    def __init__(self, state_dim: int, action_dim: int) -> None:
        super().__init__()
        for name, size in (("state_mean", state_dim), ("state_std", state_dim)):
            self.register_buffer(name, torch.empty(size))
        for name, size in (("action_middle", action_dim), ("action_half", action_dim)):
            self.register_buffer(name, torch.empty(size))

    def standardise(self, states: Tensor) -> Tensor:
        """Return (states - mean) / std in the model's type, for [..., S]."""
        return (states.to(self.state_mean.dtype) - self.state_mean) / self.state_std

    def from_box(self, actions: Tensor) -> Tensor:
        """Return actions [..., A] of the environment's box in [-1, 1]."""
        return (actions.to(self.action_half.dtype) - self.action_middle) / self.action_half

    def to_box(self, actions: Tensor) -> Tensor:
        """Return actions [..., A] of [-1, 1] in the environment's box, never outside of it by rounding."""
        low, high = self.action_middle - self.action_half, self.action_middle + self.action_half
        return (self.action_middle + self.action_half * actions).clamp(low, high)

    @staticmethod
    def of(task: ControlTask) -> dict[str, Tensor]:
        """Return the buffers' values for a task, in float32."""
        low, high = (torch.tensor(v, dtype=torch.float64) for v in (task.action_low, task.action_high))
        values = {
            "state_mean": torch.tensor(task.state_mean, dtype=torch.float64),
            "state_std": torch.tensor(task.state_std, dtype=torch.float64),
            "action_middle": (low + high) / 2,
            "action_half": (high - low) / 2,
        }
        return {name: value.float() for name, value in values.items()}
