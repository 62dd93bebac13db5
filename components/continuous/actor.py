"""A continuous-control policy made ready: on its device, with data that fits it, in batches whose size does not show in the
results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instar.artifact import Policy
from instar.contract import Context
from instar.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from instar.components.continuous.model import ContinuousPolicy
    from instar.components.trajectories import Trajectories

ROWS = 8
"""A pass has a multiple of this many rows. Matrix products of other sizes treat the rows beyond it by other code, which rounds
differently: what a policy does would depend on how many others are asked at the same time."""


def filled(count: int) -> int:
    """Return the rows of a pass that has room for `count`."""
    return -(-count // ROWS) * ROWS


def open_actor(policy: Policy, device: str, ctx: Context, where: str) -> ContinuousPolicy:
    """Return the policy in eval mode on `device`: `cpu`, `cuda`, or `auto` for CUDA where there is one.

    A policy of another kind is a `ContractError`, CUDA by name where there is none a `ConfigError`. A model that others hold
    is copied before it is moved.
    """
    import copy

    import torch

    from instar.components.continuous.model import ContinuousPolicy
    from instar.components.policy_io import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(expected="a CUDA device", found="none", where=f"{where}.device", action="write auto or cpu")
    model: Any = load_model(policy, ctx)
    if not isinstance(model, ContinuousPolicy):
        raise ContractError(
            expected="a continuous-control policy",
            found=type(model).__name__,
            where=f"{where}.policy {policy.digest}",
            action="prepare the policy with dataset_prep.strategy=offline",
        )
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if model.device.type == chosen:
        return model
    moved: Any = copy.deepcopy(model)
    moved.to(chosen)
    return moved  # type: ignore[no-any-return]


def check_fits(model: ContinuousPolicy, data: Trajectories, where: str) -> None:
    """Raise `ContractError` unless the policy reads and writes numbers of the same dimensions as the data."""
    task, found = model.task, (data.observations.shape[1], data.actions.shape[1])
    if found != (task.state_dim, task.action_dim):
        raise ContractError(
            expected=f"{task.state_dim} numbers of state and {task.action_dim} of action, as the policy for {task.env}",
            found=f"{found[0]} and {found[1]}",
            where=f"{where}.data:observations, actions",
            action="use the policy and the data of one dataset preparation",
        )
