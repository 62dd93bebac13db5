"""The state that a policy carries through an episode.

The first dimension of every tensor is the batch, with one row per episode. Before an episode all tensors are zero. So setting a row
to zero starts a new episode in it, and indexing can drop rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from instar.components.continuous.config import ContinuousTask


@dataclass(frozen=True, kw_only=True)
class ActingState:
    """State of kind `window`: the last K steps, which are read again at every step. Kind `carried`: what the model itself
    carries."""

    kind: Literal["window", "carried"]
    tensors: dict[str, Tensor]
    """One of the tensors is always `started`, [B] bool: whether the episode of a row has had a step."""

    @property
    def batch(self) -> int:
        """The number of rows."""
        return self.tensors["started"].shape[0]

    def reset(self, rows: Tensor) -> ActingState:
        """Return a copy in which the rows marked by `rows`, [B] bool, start a new episode."""
        zeroed = {k: v.masked_fill(rows.reshape(-1, *[1] * (v.ndim - 1)), 0) for k, v in self.tensors.items()}
        return replace(self, tensors=zeroed)

    def select(self, index: Tensor) -> ActingState:
        """Return only the rows `index`, [M] int, in that order."""
        return replace(self, tensors={k: v.index_select(0, index) for k, v in self.tensors.items()})


def window_state(batch: int, steps: int, task: ContinuousTask, like: Tensor) -> ActingState:
    """Return empty windows of `steps` steps, with the number type and the device of `like`."""
    return ActingState(
        kind="window",
        tensors={
            "started": torch.zeros(batch, dtype=torch.bool, device=like.device),
            "mask": torch.zeros(batch, steps, dtype=torch.bool, device=like.device),
            "states": like.new_zeros(batch, steps, task.state_dim),
            "actions": like.new_zeros(batch, steps, task.action_dim),
            "returns": like.new_zeros(batch, steps),
            "timesteps": torch.zeros(batch, steps, dtype=torch.long, device=like.device),
        },
    )


def window_step(
    act_window: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
    state: ActingState,
    returns: Tensor,
    states: Tensor,
    previous_actions: Tensor,
    timesteps: Tensor,
) -> tuple[Tensor, ActingState]:
    """Move the window on by one step, write the previous action into its slot, and return the action of the last step."""
    old = state.tensors
    steps = old["mask"].shape[1]
    previous = previous_actions[:, None].to(old["actions"].dtype)
    actions = torch.cat([old["actions"][:, 1:-1], previous, torch.zeros_like(previous)], dim=1)
    new = {
        "started": torch.ones_like(old["started"]),
        "mask": _push(old["mask"], torch.ones_like(old["started"])),
        "states": _push(old["states"], states),
        "actions": actions[:, -steps:],
        "returns": _push(old["returns"], returns),
        "timesteps": _push(old["timesteps"], timesteps),
    }
    acted = act_window(new["states"], new["actions"], new["returns"], new["timesteps"], new["mask"])
    return acted, replace(state, tensors=new)


def _push(window: Tensor, newest: Tensor) -> Tensor:
    return torch.cat([window[:, 1:], newest[:, None].to(window.dtype)], dim=1)
