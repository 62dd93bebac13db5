"""Opens a stored continuous-control policy for use: on its device, with a check that the data fit it, and with a batch size that
does not change the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instar.artifact import Policy
from instar.contract import Context
from instar.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from instar.components.continuous.model import ContinuousPolicy
    from instar.components.trajectories import Trajectories

ROWS = 8
"""Every pass has a multiple of 8 rows. Matrix products handle the rows beyond a multiple of 8 with other code, which rounds
differently. Then the action in one episode would depend on how many other episodes run at the same time."""


def filled(count: int) -> int:
    """Return the number of rows of a pass for `count` episodes: the next multiple of `ROWS`."""
    return -(-count // ROWS) * ROWS


def open_actor(policy: Policy, device: str, ctx: Context, where: str) -> ContinuousPolicy:
    """Return the policy in eval mode on `device`: `cpu`, `cuda`, or `auto`, which means CUDA if there is a CUDA device.

    A policy of another kind is a `ContractError`. `cuda` without a CUDA device is a `ConfigError`. Other code may hold the loaded
    model, so a copy of it is moved to the device.
    """
    import copy

    import torch

    from instar.components.continuous.model import ContinuousPolicy
    from instar.components.policy_io import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            expected="a CUDA device", found="none", where=f"{where}.device", action="set it to auto or cpu"
        )
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
    """Raise `ContractError` unless states and actions of the data have the dimensions that the policy expects."""
    task, dimensions = model.task, (data.observations.shape[1], data.actions.shape[1])
    if dimensions != (task.state_dim, task.action_dim):
        raise ContractError(
            expected=f"states of dimension {task.state_dim} and actions of dimension {task.action_dim}, as in {task.env}",
            found=f"dimensions {dimensions[0]} and {dimensions[1]}",
            where=f"{where}.data:observations, actions",
            action="use a policy and data of the same dataset preparation",
        )
