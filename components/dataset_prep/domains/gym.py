"""Opens the data sets of reasoning-gym. Its import takes two seconds, so it is imported when the first item is drawn.

An item of reasoning-gym depends only on `seed + index`. So a data set of size 1 gives the item of every index. Only its data
are used. Its scorers give partial credit to any answer that contains the right one, and its curricula are one level behind.
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
            warnings.simplefilter("ignore", SyntaxWarning)  # a dependency of reasoning-gym compares a literal with `is`
            import reasoning_gym
    except ImportError as error:
        raise MissingDependencyError(
            expected=f"reasoning-gym=={VERSION}",
            found=str(error),
            where=f"domain {name}",
            action="install instar[envs]",
        ) from error
    return reasoning_gym.create_dataset(name, size=1, seed=seed, **dict(settings))
