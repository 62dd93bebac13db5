"""Reads and writes Minari data sets in their documented HDF5 layout. The package minari is not needed, and nothing is downloaded.

A data set is a folder `<root>/<id>/data` with `metadata.json` and `main_data.hdf5`. The HDF5 file has a group `episode_<i>` for
every episode, with `observations` [T + 1, S], `actions` [T, A], `rewards`, `terminations` and `truncations` [T]. Only box
spaces with one axis can be read. `minari_metadata.py` reads the metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instar.components.dataset_prep.offline.episodes import Episodes, build
from instar.components.dataset_prep.offline.hdf5 import array, created, member, opened
from instar.components.dataset_prep.offline.minari_metadata import read_metadata
from instar.errors import ArtifactError, ContractError, MissingDependencyError
from instar.store_files import storage_errors

VERSION = "0.5.4"
METADATA, DATA = "metadata.json", "main_data.hdf5"


def read_minari(path: Path, tier: str | None = None) -> Episodes:
    """Return the episodes of the Minari data set at `path`: its folder, the `data` folder in it, or the HDF5 file.

    The tier of an episode is its attribute `tier`, else the argument `tier`, else the last part of the data set's name. Flags
    before the last step and missing arrays are a `ContractError`. A damaged file is an `ArtifactError`.
    """
    path = path.parent if path.name == DATA else path
    folder = path / "data" if os.path.exists(path / "data" / METADATA) else path  # noqa: PTH110 (no error for a long name)
    metadata = read_metadata(folder / METADATA)
    parts = []
    with opened(folder / DATA) as file:
        for index in range(len(file.keys())):
            name = f"episode_{index}"
            parts.append(_episode(member(file, name, str(folder / DATA)), f"{folder / DATA}:{name}"))
    if metadata.total_episodes not in (None, len(parts)):
        raise ArtifactError(
            expected=f"{metadata.total_episodes} episodes, as {METADATA} says",
            found=str(len(parts)),
            where=str(folder / DATA),
            action="copy the data set again",
        )
    finals = _joined([p["final"][None] for p in parts], folder)
    fallback = tier or metadata.name.split("/")[-1].removesuffix("-v0")
    return build(
        metadata.env,
        action_low=metadata.action_low,
        action_high=metadata.action_high,
        lengths=[len(p["rewards"]) for p in parts],
        observations=_joined([p["observations"] for p in parts], folder),
        actions=_joined([p["actions"] for p in parts], folder),
        rewards=_joined([p["rewards"] for p in parts], folder),
        terminated=[p["terminated"] for p in parts],
        truncated=[p["truncated"] for p in parts],
        tier=[p["tier"] or fallback for p in parts],
        behaviour=[p["behaviour"] or metadata.algorithm for p in parts],
        seeds=[p["seed"] for p in parts],
        final_observations=None if np.isnan(finals).all() else finals,
        where=str(folder),
    )


def write_minari(
    episodes: Episodes, root: Path, name: str, *, references: tuple[float, float] | None = None, algorithm: str = ""
) -> Path:
    """Write the episodes to `<root>/<name>/data` and return that folder.

    `minari.load_dataset(name)` reads it when `MINARI_DATASETS_PATH` is `root`. `references` are the mean returns of a random and of
    an expert policy. Unknown final observations are written as NaN, and are read as unknown. A folder that already holds a data set
    is an `ArtifactError`.
    """
    folder = root / name / "data"
    if (folder / METADATA).exists():
        raise ArtifactError(
            expected="a new folder", found="a data set", where=str(folder), action="remove it, or name another folder"
        )
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with created(folder / DATA) as file:
        for index, steps in enumerate(episodes.spans()):
            _write_episode(file.create_group(f"episode_{index}"), episodes, index, steps)
    metadata: dict[str, Any] = {
        "dataset_id": name,
        "minari_version": VERSION,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": episodes.num_episodes,
        "total_steps": episodes.num_steps,
        "env_spec": _env_spec(episodes.env),
        "observation_space": _box_json(episodes.observations.shape[1:], -np.inf, np.inf),
        "action_space": _box_json(episodes.action_low.shape, episodes.action_low, episodes.action_high),
        "algorithm_name": algorithm,
    }
    if references:
        metadata |= {"ref_min_score": references[0], "ref_max_score": references[1]}
    with storage_errors(folder):
        (folder / METADATA).write_text(json.dumps(metadata, sort_keys=True))
    return folder


def _episode(group: Any, where: str) -> dict[str, Any]:
    if not hasattr(group, "keys"):
        raise _wrong("a group of arrays", "an array", where)
    rewards = array(group, "rewards", where)
    observations = array(group, "observations", where)
    length = len(rewards)
    flags = {}
    for name in ("terminations", "truncations"):
        flags[name] = array(group, name, where).astype(np.bool_)
        early = np.flatnonzero(flags[name][:-1])
        if len(flags[name]) != length or len(early):
            found = f"one at step {early[0]}" if len(early) else f"{len(flags[name])} flags"
            raise _wrong(f"{name} of {length} steps, true at the last step at most", found, where)
    if len(observations) != length + 1:
        raise _wrong(f"{length + 1} observations, one more than rewards", str(len(observations)), where)
    return {
        "rewards": rewards,
        "observations": observations[:-1],
        "final": observations[-1],
        "actions": array(group, "actions", where),
        "terminated": bool(flags["terminations"][-1:].any()),
        "truncated": bool(flags["truncations"][-1:].any()),
        "tier": str(_attribute(group, "tier", str, "", where)),
        "behaviour": str(_attribute(group, "behaviour", str, "", where)),
        "seed": int(_attribute(group, "seed", (int, np.integer), 0, where)),
    }


def _attribute(group: Any, name: str, kinds: type | tuple[type, ...], absent: Any, where: str) -> Any:
    """Return an attribute of an episode. An attribute of another type is a `ContractError`."""
    value = group.attrs.get(name, absent)
    if not isinstance(value, kinds):
        raise _wrong("a text" if kinds is str else "a whole number", str(value)[:200], f"{where}@{name}")
    return value


def _write_episode(group: Any, episodes: Episodes, index: int, steps: slice) -> None:
    length = int(episodes.lengths[index])
    final = np.full((1, episodes.observations.shape[1]), np.nan, np.float32)
    if episodes.final_observations is not None:
        final = episodes.final_observations[index][None]
    ends = np.arange(length) == length - 1
    group.create_dataset("observations", data=np.concatenate([episodes.observations[steps], final]))
    group.create_dataset("actions", data=episodes.actions[steps])
    group.create_dataset("rewards", data=episodes.rewards[steps])
    group.create_dataset("terminations", data=ends & episodes.terminated[index])
    group.create_dataset("truncations", data=ends & episodes.truncated[index])
    group.create_group("infos")
    tags = {"tier": str(episodes.tier[index]), "behaviour": str(episodes.behaviour[index])}
    group.attrs.update({"id": index, "total_steps": length, "seed": int(episodes.seeds[index]), **tags})


def _box_json(shape: tuple[int, ...], low: npt.ArrayLike, high: npt.ArrayLike) -> str:
    bounds = {"low": np.broadcast_to(low, shape).tolist(), "high": np.broadcast_to(high, shape).tolist()}
    return json.dumps({"type": "Box", "dtype": "float32", "shape": list(shape), **bounds})


def _env_spec(env: str) -> str:
    """Return Gymnasium's description of a registered environment as JSON.

    JSON cannot hold an environment that was registered as a function, or with other arguments than plain values. Its description
    has the id without the function and its arguments. The data can be used wherever this id is registered.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise MissingDependencyError(
            expected="gymnasium", found=str(error), where="write_minari", action="install instar[control]"
        ) from error
    spec = gymnasium.spec(env)
    try:
        return str(spec.to_json())
    except (ValueError, TypeError):
        return str(dataclasses.replace(spec, entry_point=None, vector_entry_point=None, kwargs={}).to_json())


def _joined(parts: list[npt.NDArray[Any]], folder: Path) -> npt.NDArray[Any]:
    """Return all parts in one array, one after another. Rows of different shapes are a `ContractError`."""
    if not parts:
        raise _wrong("at least one episode", "none", str(folder))
    for index, part in enumerate(parts):
        if part.shape[1:] != parts[0].shape[1:]:
            expected = f"rows of shape {parts[0].shape[1:]} as in episode 0"
            raise _wrong(expected, str(part.shape[1:]), f"{folder}:episode_{index}")
    return np.concatenate(parts)


def _wrong(expected: str, found: str, where: str) -> ContractError:
    return ContractError(
        expected=expected, found=found, where=where, action="write the data set again, or leave it out"
    )
