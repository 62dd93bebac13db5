"""Simulators: gymnasium environments by id. Recording and evaluation open them in the same way."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from instar.errors import ConfigError, MissingDependencyError


def open_environment(name: str) -> Any:
    """Return the gymnasium environment `name`. Its states and its actions must be boxes of one axis.

    Raises `MissingDependencyError` for a package that is not installed. Raises `ConfigError` for an id that gymnasium does not
    know, for an id that names a module to import, and for other kinds of states or actions.
    """
    if (
        ":" in name
    ):  # gymnasium would import the module before the colon, and the config of a policy must not choose modules
        raise _wrong("the id of a registered environment", f"'{name}', which names a module", name)
    try:
        import gymnasium
        from gymnasium.error import DependencyNotInstalled, Error
    except ImportError as error:
        raise _missing(name, "control", error) from error
    log_mujoco_warnings()
    try:
        with quiet():
            environment = gymnasium.make(name, disable_env_checker=True)
    except (DependencyNotInstalled, ImportError) as error:
        raise _missing(name, "mujoco", error) from error
    except Error as error:
        raise _wrong("an environment that gymnasium knows", str(error).splitlines()[0], name) from error
    spaces = (environment.observation_space, environment.action_space)
    if any(not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 for space in spaces):
        raise _wrong("states and actions that are boxes of one axis", f"{spaces[0]} and {spaces[1]}", name)
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
        action="correct the id, or install the package that registers a control task with flat states",
    )
