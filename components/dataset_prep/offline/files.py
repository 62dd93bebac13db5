"""Reads logged episodes from a path whose layout is not said: the files show it.

| path | layout | who names the environment |
|---|---|---|
| `*.parquet`, or a folder of such files | one row per step (`steps.py`) | the setting `env` |
| the same, written by `instar data` | one row per episode (`table.py`) | the file |
| a folder with `metadata.json`, or `main_data.hdf5` | Minari (`minari.py`) | the data set |
| `*.hdf5`, `*.h5` | D4RL (`d4rl.py`) | the setting `env` |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instar.components.dataset_prep.offline import minari
from instar.components.dataset_prep.offline.d4rl import read_d4rl
from instar.components.dataset_prep.offline.episodes import Episodes, concat
from instar.components.dataset_prep.offline.sources import FilesSource
from instar.components.dataset_prep.offline.steps import opened, read_steps
from instar.components.dataset_prep.offline.table import KEY, read_parquet
from instar.components.dataset_prep.offline.tasks import find_simulator
from instar.errors import ArtifactError, ConfigError, ContractError

HDF5 = (".hdf5", ".h5")


def read_files(source: FilesSource) -> Episodes:
    """Return the episodes of a path in the layout that its files show.

    Raises `ArtifactError` for a path without such files, `ConfigError` when nothing names the environment, `ContractError` when
    files and setting name different ones, and what the reader of the layout raises.
    """
    path = Path(source.path)
    if tables := _tables(path):
        episodes = _read_tables(tables, source)
    elif _is_minari(path):
        episodes = minari.read_minari(path)
    elif path.is_file() and path.suffix in HDF5:
        episodes = read_d4rl(path, _named(source), path.stem)
    else:
        raise ArtifactError(
            expected="Parquet files, a Minari data set, or an HDF5 file in the layout of D4RL",
            found=_content(path),
            where=str(path),
            action="correct the path, or write the episodes in one of these layouts (docs/howto/offline-data.md)",
        )
    if source.env not in ("", episodes.env):
        raise ContractError(
            expected=f"episodes of {source.env}, the environment of the setting",
            found=f"episodes of {episodes.env}",
            where=str(path),
            action="correct the path or the environment, or leave the environment out",
        )
    return episodes


def _tables(path: Path) -> list[Path]:
    """Return the Parquet files at a path in the order of their names."""
    if path.is_dir():
        return sorted(path.glob("*.parquet"))
    return [path] if path.is_file() and path.suffix == ".parquet" else []


def _read_tables(files: Sequence[Path], source: FilesSource) -> Episodes:
    with opened(files[0]) as first:
        recorded = KEY in (first.schema_arrow.metadata or {})
    if recorded:
        return concat([read_parquet(file) for file in files])
    return read_steps(files, find_simulator(_named(source)))


def _is_minari(path: Path) -> bool:
    folders = (path, path / "data")
    return path.name == minari.DATA or any((folder / minari.METADATA).is_file() for folder in folders)


def _named(source: FilesSource) -> str:
    """Return the environment of the setting. Without one it is a `ConfigError`, because these files do not name theirs."""
    if not source.env:
        raise ConfigError(
            expected="the id of the environment, because these files do not name it",
            found="none",
            where=source.path,
            action="add --env ID, for example --env MountainCarContinuous-v0 (dataset_prep.source.env)",
        )
    return source.env


def _content(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:5]) or 'nothing in it'}" + (", and more" if len(names) > 5 else "")
    return f"a file '{path.name}'" if path.exists() else "nothing"
