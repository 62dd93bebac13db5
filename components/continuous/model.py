"""The base class of all continuous-control policies: stored configuration, units, checks, output, and how a policy acts.

Units: a policy takes raw states and actions of the environment, and returns-to-go that the caller has divided by
`task.return_scale`. The policy itself standardises the states and maps the box of actions to [-1, 1]. The numbers for this are
stored beside its weights. Predictions of `forward` are in the model's units: actions in [-1, 1], next states standardised, next
returns scaled. `act_window` and `step` return actions in the environment's units.

Padding is on the left: `mask` is first False, then True. Neither the content nor the number of padded steps changes a prediction.
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
    """The stored configuration. `arch` and `task` are plain dicts: an architecture of `Arch`, and a `ContinuousTask`."""

    model_type: ClassVar[str] = "instar_control"
    arch: dict[str, Any] | None = None
    task: dict[str, Any] | None = None


@dataclass(frozen=True)
class ContinuousOutput:
    """Predictions for every step of a window, in the model's units."""

    actions: Tensor
    """[B, K, A] in [-1, 1]: the action of each step, predicted from what was known before that action."""
    next_states: Tensor | None
    """[B, K, S], standardised: the state of the following step, predicted from the action token. None without auxiliary heads."""
    next_returns: Tensor | None
    """[B, K], scaled: the return-to-go of the following step. None without auxiliary heads."""


class ContinuousPolicy(PreTrainedModel):  # type: ignore[misc]
    """Base of the three policies. A subclass implements `predict`. It also implements `advance` if it can act without reading the
    last K steps again at every step."""

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
        """Do nothing: `build` draws every weight from an explicit generator, and `load` refuses a missing one."""

    def predict(
        self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> ContinuousOutput:
        """Return predictions. Inputs are in the model's units and zero at padded steps. `mask` is None when nothing is padded."""
        raise NotImplementedError

    def forward(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> ContinuousOutput:
        """Return predictions for windows. Shapes: states [B, K, S], actions [B, K, A], the others [B, K]; `mask` is boolean.

        No action prediction sees the last action of a window, so that slot may hold any number. Raises `ContractError` for wrong
        shapes, for padding that is not on the left, and for a timestep outside of the model's table.
        """
        check_window(self.arch, self.task, states, actions, returns_to_go, timesteps, mask)
        padded = ~mask
        states = self.units.standardise(states).masked_fill(padded[..., None], 0.0)
        actions = self.units.from_box(actions).masked_fill(padded[..., None], 0.0)
        returns = returns_to_go.to(states.dtype).masked_fill(padded, 0.0)
        full = mask.device.type == "cpu" and bool(mask.all())  # on a GPU, reading the mask would wait for the device
        return self.predict(states, actions, returns, timesteps.masked_fill(padded, 0), None if full else mask)

    @torch.no_grad()
    def act_window(
        self, states: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the action [B, A] of each window's last step, in the environment's units. The arguments are those of `forward`.

        This action is not known yet. So its slot in `actions` is first set to the middle of the box.
        """
        actions = torch.cat([actions[:, :-1], self.units.to_box(torch.zeros_like(actions[:, -1:]))], dim=1)
        return self.units.to_box(self(states, actions, returns_to_go, timesteps, mask).actions[:, -1])

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        """Return the state before the first step of `batch` episodes.

        With `window=True`, `step` reads the last K steps again at every step, as in training. Without it, a policy with `advance`
        carries a state of constant size that summarises the whole episode. Other policies use the window in both cases.
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
        """Return actions [B, A] in the environment's units, and the state after this step.

        Shapes: returns_to_go [B], states [B, S], timesteps [B]. `previous_actions` [B, A] are the actions of the step before, in
        the environment's units. They are None when all episodes start. A row that starts an episode ignores its previous action.
        Raises `ContractError` for wrong shapes, for wrong timesteps, and for None after the first step.
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
        """Return actions [B, A] in [-1, 1] and the carried tensors after one step. Inputs are in the model's units."""
        raise NotImplementedError

    def no_decay_names(self) -> frozenset[str]:
        """Return the names of parameters without weight decay: biases, norms, and A_log and D of the scans."""
        return frozenset(n for n, p in self.named_parameters() if p.ndim < 2 or n.endswith("A_log"))
