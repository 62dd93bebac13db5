"""The tokens of a trajectory and the output heads. The two sequence models share them.

A step is three tokens, in this order: return-to-go, state, action. The action is predicted from the state token. The next state and
the next return are predicted from the action token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instar.components.continuous.config import Shape


class Encoder(nn.Module):
    """h = W1 x + b1. The shape `linear` returns h. The shape `mlp` returns h + W2 GELU(h) + b2."""

    def __init__(self, inputs: int, width: int, shape: Shape) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(width, width) if shape == "mlp" else None

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., width] for x [..., inputs]."""
        h: Tensor = self.first(x)
        return h if self.second is None else h + self.second(F.gelu(h))


class Tokens(nn.Module):
    """Embeds returns, states and actions, normalises all with one LayerNorm, and adds the vector of the step's timestep."""

    def __init__(self, state_dim: int, action_dim: int, width: int, max_timestep: int, shape: Shape) -> None:
        super().__init__()
        self.returns = Encoder(1, width, shape)
        self.states = Encoder(state_dim, width, shape)
        self.actions = Encoder(action_dim, width, shape)
        self.norm = nn.LayerNorm(width)
        self.timesteps = nn.Embedding(max_timestep, width)

    def forward(self, returns: Tensor, states: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Return tokens [B, 3K, d] in the order R_0 s_0 a_0 R_1 and so on. Returns and timesteps are [B, K]."""
        parts = [self.returns(returns[..., None]), self.states(states), self.actions(actions)]
        tokens: Tensor = self.norm(torch.stack(parts, dim=2)) + self.timesteps(timesteps)[:, :, None]
        return tokens.flatten(1, 2)

    def step(self, previous_actions: Tensor, returns: Tensor, states: Tensor, timesteps: Tensor) -> Tensor:
        """Return the tokens a_{t-1}, R_t, s_t, [B, 3, d]. The token a_{t-1} has the timestep before. Arguments begin with [B]."""
        parts = [self.actions(previous_actions), self.returns(returns[:, None]), self.states(states)]
        when = torch.stack([(timesteps - 1).clamp(min=0), timesteps, timesteps], dim=1)
        tokens: Tensor = self.norm(torch.stack(parts, dim=1)) + self.timesteps(when)
        return tokens


class Heads(nn.Module):
    """The action head, which ends with tanh, and two auxiliary heads. Each auxiliary head is one linear map."""

    def __init__(self, width: int, state_dim: int, action_dim: int, shape: Shape, auxiliary: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width) if shape == "mlp" else None
        self.action = nn.Linear(width, action_dim)
        self.next_state = nn.Linear(width, state_dim) if auxiliary else None
        self.next_return = nn.Linear(width, 1) if auxiliary else None

    def act(self, at_state: Tensor) -> Tensor:
        """Return actions [..., A] in [-1, 1] from the hidden vectors of state tokens."""
        return torch.tanh(self.action(at_state if self.hidden is None else F.gelu(self.hidden(at_state))))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return actions [B, K, A], next states [B, K, S] and next returns [B, K] for hidden vectors [B, 3K, d].

        Next states and next returns are None without auxiliary heads.
        """
        _, at_state, at_action = hidden.reshape(hidden.shape[0], -1, 3, hidden.shape[-1]).unbind(2)
        if self.next_state is None or self.next_return is None:
            return self.act(at_state), None, None
        return self.act(at_state), self.next_state(at_action), self.next_return(at_action).squeeze(-1)
