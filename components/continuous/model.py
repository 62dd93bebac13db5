"""What all continuous-control policies share: their stored configuration, units, checks, output, and how they act.

Units. A policy takes what the environment gives: raw states, actions in the environment's box, and returns-to-go that
are already divided by `task.return_scale`. It standardises states and maps the box to [-1, 1] itself, with numbers
stored beside its weights. Predictions of `forward` are in the model's units: actions in [-1, 1], next states
standardised, next returns scaled. `act_window` and `step` return actions in the environment's box.

Padding is on the left: `mask` is False, then True. What a padded slot holds changes nothing, nor does their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from instar.components.continuous import acting
from instar.components.continuous.acting import ActingState
from instar.components.continuous.config import Arch, ContinuousTask
from instar.components.continuous.units import Units
from instar.components.continuous.windows import check_step, check_window
from instar.config import from_dict


class ContinuousConfig(PreTrainedConfig):  # type: ignore[misc]
    """The stored form: `arch` and `task` are the plain dicts of an architecture's config and of `ContinuousTask`."""

    model_type: ClassVar[str] = "instar_control"
    arch: dict[str, Any] | None = None
    task: dict[str, Any] | None = None


@dataclass(frozen=True)
class ContinuousOutput:
    """Predictions for every step of a window, in the model's units."""

    actions: Tensor
    """[B, K, A] in [-1, 1]: the action of each step, from what was known before it."""
    next_states: Tensor | None
    """[B, K, S], standardised: the state of the following step, from the action token; None without auxiliary heads."""
    next_returns: Tensor | None
    """[B, K], scaled: the return-to-go of the following step."""


class ContinuousPolicy(PreTrainedModel):  # type: ignore[misc]
    """Base of the three models. Subclasses give `predict`, and `advance` where they act without re-reading a window."""

    config_class: ClassVar[type[ContinuousConfig]] = ContinuousConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    base_model_prefix = ""
    main_input_name = "states"
    arch_class: ClassVar[Any]

    def __init__(self, config: ContinuousConfig) -> None:
        super().__init__(config)
        self.arch: Arch = from_dict(self.arch_class, config.arch, "config.json:arch")
        self.task: ContinuousTask = from_dict(ContinuousTask, config.task, "config.json:task")
        self.units = Units(self.task.state_dim, self.task.action_dim)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `build` draws every weight from an explicit generator, and `load` refuses a missing one."""

    def predict(
        self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> ContinuousOutput:
        """Return predictions for inputs in the model's units, zero at padding; `mask` is None without any padding."""
        raise NotImplementedError

    def forward(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> ContinuousOutput:
        """Return predictions for windows: states [B, K, S], actions [B, K, A], the rest [B, K], mask bool.

        The last action of a window may hold anything: no action prediction sees it. Raises `ContractError` for wrong
        shapes, padding that is not on the left, or a timestep outside the model's table.
        """
        check_window(self.arch, self.task, states, actions, returns_to_go, timesteps, mask)
        padded = ~mask
        states = self.units.standardise(states).masked_fill(padded[..., None], 0.0)
        actions = self.units.from_box(actions).masked_fill(padded[..., None], 0.0)
        returns = returns_to_go.to(states.dtype).masked_fill(padded, 0.0)
        full = mask.device.type == "cpu" and bool(mask.all())  # elsewhere the question would wait for the device
        return self.predict(states, actions, returns, timesteps.masked_fill(padded, 0), None if full else mask)

    @torch.no_grad()
    def act_window(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the action [B, A] of each window's last step, in the environment's box. Arguments as for `forward`.

        The last action slot is set to the middle of the box first: it is the one that is being asked for.
        """
        actions = torch.cat([actions[:, :-1], self.units.to_box(torch.zeros_like(actions[:, -1:]))], dim=1)
        return self.units.to_box(self(states, actions, returns_to_go, timesteps, mask).actions[:, -1])

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        """Return the state in front of the first step of `batch` episodes.

        `window=True` makes `step` re-read the last K steps, as in training; without it a policy that can carries a
        state of constant size that has seen the whole episode.
        """
        return acting.window_state(batch, self.arch.window, self.task, self.units.state_mean)

    @torch.no_grad()
    def step(
        self,
        state: ActingState,
        returns_to_go: Tensor,
        states: Tensor,
        previous_actions: Tensor | None,
        timesteps: Tensor,
    ) -> tuple[Tensor, ActingState]:
        """Return actions [B, A] in the environment's box, and the state after this step.

        returns_to_go [B], states [B, S], timesteps [B]; `previous_actions` [B, A] are what was done one step earlier,
        in the box, or None when every episode starts. Rows that start an episode ignore theirs. Raises
        `ContractError` for wrong shapes and timesteps, or None after the first step.
        """
        check_step(self.arch, self.task, state, returns_to_go, states, previous_actions, timesteps)
        if previous_actions is None:
            previous_actions = self.units.to_box(states.new_zeros(states.shape[0], self.task.action_dim))
        if state.kind == "window":
            return acting.window_step(self.act_window, state, returns_to_go, states, previous_actions, timesteps)
        predicted, tensors = self.advance(
            state.tensors,
            self.units.standardise(states),
            self.units.from_box(previous_actions),
            returns_to_go.to(self.units.state_mean.dtype),
            timesteps,
        )
        return self.units.to_box(predicted), ActingState(kind="carried", tensors=tensors)

    def advance(
        self, tensors: dict[str, Tensor], states: Tensor, previous_actions: Tensor, returns: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return actions [B, A] in [-1, 1] and the carried tensors after one step, from inputs in the model's units."""
        raise NotImplementedError

    def no_decay_names(self) -> frozenset[str]:
        """Return the parameters that weight decay leaves alone: biases, norms, and A_log and D of the scans."""
        return frozenset(n for n, p in self.named_parameters() if p.ndim < 2 or n.endswith("A_log"))
