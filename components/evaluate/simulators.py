"""Simulators for evaluation: gymnasium environments, checked against what the policy was trained for."""

from __future__ import annotations

from typing import Any

import numpy as np

from instar.components.continuous.config import ContinuousTask
from instar.components.environments import open_environment
from instar.errors import ContractError


def open_environments(task: ContinuousTask, count: int) -> list[Any]:
    """Return `count` equal environments of `task.env`, which reset by themselves never.

    Raises what `open_environment` does, and `ContractError` for states, actions or an action box other than the policy's.
    """
    made = [open_environment(task.env) for _ in range(count)]
    _check(made[0], task)
    return made


def time_limit(environment: Any) -> int | None:
    """Return the steps after which an episode is cut, None without a limit."""
    limit: int | None = environment.spec.max_episode_steps
    return limit


def _check(environment: Any, task: ContinuousTask) -> None:
    seen, acted = environment.observation_space, environment.action_space
    if seen.shape != (task.state_dim,) or acted.shape != (task.action_dim,):
        raise _differs(
            f"{task.env} with {task.state_dim} numbers of state and {task.action_dim} of action, as the policy",
            f"{seen.shape} and {acted.shape}",
            "use the version of the environment that the data was recorded in",
        )
    box = np.array([task.action_low, task.action_high], np.float32)
    if not np.array_equal(box, np.stack([acted.low, acted.high]).astype(np.float32)):
        raise _differs(
            f"actions within {box[0].tolist()} and {box[1].tolist()}, as the policy",
            f"{acted.low.tolist()} and {acted.high.tolist()}",
            "prepare data and policy for this environment",
        )


def _differs(expected: str, found: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where="evaluate.policy:config.json:task", action=action)
