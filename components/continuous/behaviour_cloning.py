"""Behaviour cloning: it predicts the logged action from the standardised state alone."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instar.components.continuous import acting
from instar.components.continuous.acting import ActingState
from instar.components.continuous.config import BcArch
from instar.components.continuous.model import ContinuousConfig, ContinuousOutput, ContinuousPolicy


class BehaviourCloningConfig(ContinuousConfig):
    """Stored configuration of a behaviour-cloning policy."""

    model_type: ClassVar[str] = "instar_bc"


class BehaviourCloning(ContinuousPolicy):
    """The policy: hidden layers with GELU, then a linear map and tanh. It reads no returns, past actions or timesteps."""

    config_class = BehaviourCloningConfig
    arch_class = BcArch
    arch: BcArch  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: ContinuousConfig) -> None:
        super().__init__(config)
        widths = [self.task.state_dim] + [self.arch.width] * self.arch.layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.action = nn.Linear(self.arch.width, self.task.action_dim)
        self.post_init()

    def act(self, states: Tensor) -> Tensor:
        """Return actions [..., A] in [-1, 1] for standardised states [..., S]."""
        for layer in self.hidden:
            states = F.gelu(layer(states))
        return torch.tanh(self.action(states))

    def predict(
        self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> ContinuousOutput:
        """Return an action for every step, without auxiliary predictions."""
        return ContinuousOutput(self.act(states), None, None)

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        """Return a window, or a state that only says which episodes have begun: the policy needs no memory."""
        if window:
            return acting.window_state(batch, self.arch.window, self.task, self.units.state_mean)
        started = torch.zeros(batch, dtype=torch.bool, device=self.units.state_mean.device)
        return ActingState(kind="carried", tensors={"started": started})

    def advance(
        self, tensors: dict[str, Tensor], states: Tensor, previous_actions: Tensor, returns: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Act on the current state alone."""
        return self.act(states), {"started": torch.ones_like(tensors["started"])}
