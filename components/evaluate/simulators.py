"""Simulators for evaluation: gymnasium environments, which must fit the task that the policy was trained for."""

from __future__ import annotations

from typing import Any

import numpy as np

from instar.components.continuous.config import ContinuousTask
from instar.components.environments import open_environment
from instar.errors import ContractError


def open_environments(task: ContinuousTask, count: int) -> list[Any]:
    """Return `count` equal environments of `task.env`. None of them resets itself at the end of an episode.

    Raises what `open_environment` raises. Raises `ContractError` when states, actions or action bounds differ from the policy's.
    """
    environments = [open_environment(task.env) for _ in range(count)]
    _check(environments[0], task)
    return environments


def time_limit(environment: Any) -> int | None:
    """Return the number of steps after which an episode is cut, or None without a limit."""
    limit: int | None = environment.spec.max_episode_steps
    return limit


def _check(environment: Any, task: ContinuousTask) -> None:
    seen, acted = environment.observation_space, environment.action_space
    if seen.shape != (task.state_dim,) or acted.shape != (task.action_dim,):
        raise _differs(
            f"{task.env} with {task.state_dim} numbers per state and {task.action_dim} per action, as in the policy",
            f"states of shape {seen.shape} and actions of shape {acted.shape}",
            "use the version of the environment in which the data was recorded",
        )
    box = np.array([task.action_low, task.action_high], np.float32)
    if not np.array_equal(box, np.stack([acted.low, acted.high]).astype(np.float32)):
        raise _differs(
            f"actions between {box[0].tolist()} and {box[1].tolist()}, as in the policy",
            f"actions between {acted.low.tolist()} and {acted.high.tolist()}",
            "prepare data and policy for this environment",
        )


def _differs(expected: str, found: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where="evaluate.policy:config.json:task", action=action)
