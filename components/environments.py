"""Simulators: gymnasium environments by id. Recording and evaluation open them in the same way."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from instar.errors import ConfigError, MissingDependencyError

MAX_STATE = 4096
"""The most numbers of a state. An image has more, and the policies here read vectors."""


def open_environment(name: str) -> Any:
    """Return the gymnasium environment `name`. Its states and its actions are boxes of one axis.

    A box with another number of axes is flattened, row by row. Raises `MissingDependencyError` for a package that is not
    installed. Raises `ConfigError` for an id that gymnasium does not know, for an id without its version, for an id that names a
    module to import, and for spaces that a continuous-control policy cannot act in.
    """
    if ":" in name:
        raise ConfigError(
            expected="the id of a registered environment",
            found=f"'{name}', which names a module",
            where=name,
            action="leave the module out, and install a package that registers the environment: gymnasium would import the "
            "module, and an id that stands in a data set or in a policy must not choose which code runs",
        )
    try:
        import gymnasium
        from gymnasium.error import DependencyNotInstalled, Error
    except ImportError as error:
        raise _missing(name, "control", error) from error
    log_mujoco_warnings()
    try:
        with quiet():
            environment: Any = gymnasium.make(name, disable_env_checker=True)
    except (DependencyNotInstalled, ImportError) as error:
        raise _missing(name, "mujoco", error) from error
    except Error as error:
        raise _wrong("an environment that gymnasium knows", str(error).splitlines()[0], name) from error
    registered = environment.spec.id
    if registered != name:
        raise ConfigError(
            expected="an id with its version, so that the environment stays the same",
            found=f"'{name}', which is {registered} today",
            where=name,
            action=f"write {registered}",
        )
    _check_spaces(environment, name)
    return _flattened(environment)


def registered_arguments(name: str) -> dict[str, Any]:
    """Return the arguments that a registered environment is made with. An id that is not registered has none."""
    try:
        import gymnasium
    except ImportError as error:
        raise _missing(name, "control", error) from error
    spec = gymnasium.registry.get(name)
    return {} if spec is None else dict(spec.kwargs)


def _check_spaces(environment: Any, name: str) -> None:
    """Raise `ConfigError` for spaces that no policy of this package can act in."""
    import gymnasium

    seen, acted = environment.observation_space, environment.action_space
    if not all(isinstance(space, gymnasium.spaces.Box) for space in (seen, acted)):
        raise ConfigError(
            expected="states that are a Box and actions that are a Box",
            found=" ".join(f"states {seen} and actions {acted}".split()),  # numpy writes bounds on several lines
            where=name,
            action="choose an environment with continuous actions, for example MountainCarContinuous-v0: the policies predict "
            "a vector of numbers between bounds, and a choice among a few actions is no such vector",
        )
    size = int(np.prod(seen.shape))
    if size > MAX_STATE:
        raise _unfit(
            f"states of at most {MAX_STATE} numbers", f"{size} in {seen}", name, "observe a vector, not an image"
        )
    if not np.issubdtype(acted.dtype, np.floating):
        raise _unfit("actions of floating-point numbers", str(acted), name, "give the actions the type float32")
    if not (np.isfinite(acted.low) & np.isfinite(acted.high) & (acted.low < acted.high)).all():
        bounds = "finite bounds of every action, the lower one below the upper one"
        raise _unfit(
            bounds, str(acted), name, "give the actions such bounds, for example by ClipAction or RescaleAction"
        )


def _flattened(environment: Any) -> Any:
    """Return the environment with states and actions of one axis."""
    from gymnasium.spaces import Box
    from gymnasium.wrappers import FlattenObservation, TransformAction

    if len(environment.observation_space.shape) != 1:
        environment = FlattenObservation(environment)
    space = environment.action_space
    if len(space.shape) != 1:
        flat = Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype)
        environment = TransformAction(environment, lambda action: np.reshape(action, space.shape), flat)
    return environment


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the deprecation warnings of gymnasium and its simulators."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
        yield


def log_mujoco_warnings() -> None:
    """Send MuJoCo's warnings to the logger `mujoco` for the rest of the process, where MuJoCo is installed.

    By default MuJoCo writes them to a file MUJOCO_LOG.TXT in the working directory, and to the terminal.
    """
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ImportError:
        return
    logger = logging.getLogger("mujoco")

    def note(text: str) -> None:
        # Warnings of deprecation help the author of an environment, but not its user.
        logger.log(logging.DEBUG if "deprecated" in text else logging.WARNING, "%s", text)

    mujoco.set_mju_user_warning(note)


def _missing(name: str, extra: str, error: Exception) -> MissingDependencyError:
    return MissingDependencyError(
        expected=f"the packages that {name} needs", found=str(error), where=name, action=f"install instar[{extra}]"
    )


def _wrong(expected: str, found: str, where: str) -> ConfigError:
    return ConfigError(
        expected=expected,
        found=found,
        where=where,
        action="correct the id, or install the package that registers the environment",
    )


def _unfit(expected: str, found: str, name: str, change: str) -> ConfigError:
    return ConfigError(
        expected=expected, found=found, where=name, action=f"register the environment with a wrapper: {change}"
    )
