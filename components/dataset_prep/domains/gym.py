"""Reach the data sets of reasoning-gym without paying its two-second import until the first item is drawn.

Its items depend on `seed + index` alone, so a data set of size 1 serves every index. Only its data are used: its
scorers give partial credit by containment, and its curricula lag one level behind.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

from instar.errors import MissingDependencyError

VERSION = "0.1.25"


@lru_cache(maxsize=64)
def dataset(name: str, settings: tuple[tuple[str, Any], ...], seed: int) -> Any:
    """Return the data set `name` with `settings`, cached. Raises `MissingDependencyError` without the `envs` extra."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # one of its dependencies compares a literal with `is`
            import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            expected=f"reasoning-gym=={VERSION}",
            found=str(error),
            where=f"domain {name}",
            action="install instar[envs]",
        ) from error
    return reasoning_gym.create_dataset(name, size=1, seed=seed, **dict(settings))
