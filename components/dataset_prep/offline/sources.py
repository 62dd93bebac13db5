"""Reading a data set by its form: a Minari folder, a D4RL file or a Parquet file of episodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from instar.components.dataset_prep.offline.d4rl import read_d4rl
from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.minari import read_minari
from instar.components.dataset_prep.offline.table import read_parquet
from instar.errors import ArtifactError, ConfigError


def _d4rl(path: Path, env: str | None, tier: str | None) -> Episodes:
    if env is None:
        raise ConfigError(
            expected="the environment of a D4RL file, for example Hopper-v5",
            found="none",
            where=str(path),
            action="name it: the file does not say",
        )
    return read_d4rl(path, env, tier or path.stem)


READERS: dict[str, Callable[[Path, str | None, str | None], Episodes]] = {
    "minari": lambda path, env, tier: read_minari(path, tier),
    "d4rl": _d4rl,
    "parquet": lambda path, env, tier: read_parquet(path),
}


def form(path: Path) -> str:
    """Return which reader a path is for: a folder is Minari, `.hdf5` and `.h5` D4RL, `.parquet` episodes."""
    if path.is_dir():
        return "minari"
    forms = {".hdf5": "d4rl", ".h5": "d4rl", ".parquet": "parquet"}
    if path.exists() and path.suffix in forms:
        return forms[path.suffix]
    raise ArtifactError(
        expected="a Minari folder, a D4RL file (.hdf5) or episodes (.parquet)",
        found="nothing" if not path.exists() else f"a file '{path.name}'",
        where=str(path),
        action="correct the path; nothing is downloaded",
    )


def read(path: Path, env: str | None = None, tier: str | None = None) -> Episodes:
    """Return the episodes at `path`. An `env` that the data set contradicts is a `ConfigError`."""
    episodes = READERS[form(path)](path, env, tier)
    if env is not None and episodes.env != env:
        raise ConfigError(
            expected=f"episodes of {env}",
            found=episodes.env,
            where=str(path),
            action="choose another data set, or set the environment to the one it was recorded in",
        )
    return episodes
