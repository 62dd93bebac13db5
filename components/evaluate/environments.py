"""Simulators for evaluation: gymnasium environments, checked against what the policy was trained for."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from instar.components.control_policy.config import ControlTask
from instar.errors import ContractError, MissingDependencyError


def open_environments(task: ControlTask, count: int) -> list[Any]:
    """Return `count` equal environments of `task.env`, which reset by themselves never.

    Raises `MissingDependencyError` for a package that is not installed, and `ContractError` for an id that gymnasium does
    not know and for states, actions or an action box other than the policy's.
    """
    name = task.env
    if ":" in name:  # gymnasium would import the module in front of the colon, which a policy's config must not choose
        raise _differs(
            "the id of a registered environment", f"'{name}', which names a module", "register it by a plugin"
        )
    try:
        import gymnasium
        from gymnasium.error import DependencyNotInstalled, Error
    except ImportError as error:
        raise _missing(name, "control", error) from error
    try:
        with quiet():
            made = [gymnasium.make(name, disable_env_checker=True) for _ in range(count)]
    except (DependencyNotInstalled, ImportError) as error:
        raise _missing(name, "mujoco", error) from error
    except Error as error:
        found = str(error).splitlines()[0]
        raise _differs("an environment that gymnasium knows", found, "install the package that registers it") from error
    _check(made[0], task)
    return made


def time_limit(environment: Any) -> int | None:
    """Return the steps after which an episode is cut, None without a limit."""
    limit: int | None = environment.spec.max_episode_steps
    return limit


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the deprecation warnings of gymnasium and its simulators off the output."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
        yield


def _check(environment: Any, task: ControlTask) -> None:
    from gymnasium.spaces import Box

    seen, acted = environment.observation_space, environment.action_space
    if not (isinstance(seen, Box) and isinstance(acted, Box)):
        raise _differs("boxes of states and actions", f"{seen} and {acted}", "choose a task of continuous control")
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


def _missing(name: str, extra: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        expected=f"what {name} needs",
        found=str(error).splitlines()[0],
        where="evaluate.simulate",
        action=f"pip install 'instar[{extra}]'",
    )
