"""Checks of the tensors that callers pass: shapes, padding on the left, and timesteps inside the table of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from instar.components.continuous.acting import ActingState
from instar.components.continuous.config import Arch, BcArch, ContinuousTask
from instar.errors import ContractError


def check_window(
    arch: Arch, task: ContinuousTask, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor
) -> None:
    """Raise `ContractError` unless the tensors form B windows of K steps of this task."""
    batch, length = mask.shape if mask.ndim == 2 else (-1, -1)
    _shape("mask", mask, (batch, length))
    _shape("states", states, (batch, length, task.state_dim))
    _shape("actions", actions, (batch, length, task.action_dim))
    _shape("returns_to_go", returns, (batch, length))
    _shape("timesteps", timesteps, (batch, length))
    if mask.dtype != torch.bool:
        raise _bad("a boolean mask", str(mask.dtype), "mask", "True marks real steps")
    if mask.device.type != "cpu":  # on a GPU, reading values would wait for the device
        return
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise _bad("padding on the left", "a padded step after a real one", "mask", "move real steps to the right")
    _timesteps(arch, timesteps.masked_fill(~mask, 0))


def check_step(
    arch: Arch,
    task: ContinuousTask,
    state: ActingState,
    returns: Tensor,
    states: Tensor,
    previous: Tensor | None,
    timesteps: Tensor,
) -> None:
    """Raise `ContractError` unless the tensors are one step of `state.batch` episodes of this task."""
    batch = state.batch
    _shape("returns_to_go", returns, (batch,))
    _shape("states", states, (batch, task.state_dim))
    _shape("timesteps", timesteps, (batch,))
    if previous is not None:
        _shape("previous_actions", previous, (batch, task.action_dim))
    elif bool(state.tensors["started"].any()):
        raise _bad(
            "the previous actions, because an episode has begun",
            "None",
            "previous_actions",
            "pass the actions of the step before",
        )
    if timesteps.device.type == "cpu":
        _timesteps(arch, timesteps)


def _shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected or -1 in expected:
        wanted = "[batch, steps]" if -1 in expected else str(list(expected))
        raise _bad(f"shape {wanted}", str(list(tensor.shape)), name, "check the batch and the task's dimensions")


def _timesteps(arch: Arch, timesteps: Tensor) -> None:
    if isinstance(arch, BcArch) or timesteps.numel() == 0:
        return
    low, high = (int(v) for v in timesteps.aminmax())
    if low < 0 or high >= arch.max_timestep:
        raise _bad(
            f"timesteps in 0..{arch.max_timestep - 1}",
            f"{low}..{high}",
            "timesteps",
            "raise max_timestep of the architecture to the longest episode",
        )


def _bad(expected: str, found: str, field: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=f"continuous:{field}", action=action)
