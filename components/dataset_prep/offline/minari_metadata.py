"""Reads the `metadata.json` of a Minari data set and checks every field, because others wrote the file.

The data must come from the environment as it is registered in Gymnasium. Scores use the returns of a random policy and of an expert
in that environment. They would be wrong for another gravity, for a wrapper that changes rewards, or for longer episodes. Such data
are refused, and the error names the field.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from instar.components.dataset_prep.offline.tasks import Simulator, find_simulator
from instar.components.environments import registered_arguments
from instar.errors import ArtifactError, ContractError

T = TypeVar("T")
MAX_BYTES = 2**24
"""The largest file that is read. Real metadata have a few KB."""
SHOWING_KWARGS = {
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
}
"""Arguments of an environment that only change pictures."""
WATCHING_WRAPPERS = {
    "PassiveEnvChecker",
    "OrderEnforcing",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
    "HumanRendering",
    "DataCollector",
}
"""Wrappers of Gymnasium and Minari that do not change states, actions or rewards."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The fields that are used. `total_episodes` is None when the file does not have it."""

    name: str
    algorithm: str
    env: str
    action_low: list[float]
    action_high: list[float]
    total_episodes: int | None


def read_metadata(path: Path) -> Metadata:
    """Return the metadata in `path`. A file that is not a JSON object is an `ArtifactError`. A wrong field is a `ContractError`."""
    content = _object(path)
    stored = _field(content, "data_format", str, path) or "hdf5"
    if stored != "hdf5":
        _wrong("hdf5", stored, path, "data_format", "write the data set again with data_format='hdf5'")
    name = _field(content, "dataset_id", str, path) or path.parent.name
    simulator = _environment(content, path)
    low, high = _box(content, simulator, path)
    return Metadata(
        name=name,
        algorithm=_field(content, "algorithm_name", str, path) or name,
        env=simulator.id,
        action_low=low,
        action_high=high,
        total_episodes=_field(content, "total_episodes", int, path),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{size} bytes, more than {MAX_BYTES}")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a JSON {type(content).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            expected="the metadata of a Minari data set, a JSON object",
            found=str(error).splitlines()[0][:200],
            where=str(path),
            action="name the folder of a data set that is on this machine; nothing is downloaded",
        ) from error
    return content


def _field(content: dict[str, Any], name: str, kind: type[T], path: Path) -> T | None:
    """Return an optional field. A field of another type is a `ContractError`."""
    value = content.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        _wrong(f"a value of type {kind.__name__}", repr(value), path, name)
    return value


def _description(content: dict[str, Any], name: str, path: Path) -> dict[str, Any] | None:
    """Return a field that holds an object. Minari writes the object as JSON text. An empty field gives None."""
    value = content.get(name)
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            _wrong("gymnasium's description as JSON", repr(value), path, name)
    if value is None or value == "":
        return None
    if not isinstance(value, dict):
        _wrong("gymnasium's description, a JSON object", repr(value), path, name)
    return value


def _environment(content: dict[str, Any], path: Path) -> Simulator:
    """Return the environment. Everything that a policy can notice must be as in the registered environment."""
    spec = _description(content, "env_spec", path)
    if spec is None:
        _wrong("a description of the environment", "none", path, "env_spec")
    name = spec.get("id")
    if not isinstance(name, str) or not name:
        _wrong("gymnasium's description of an environment, with its id", repr(spec), path, "env_spec")
    simulator = find_simulator(name)
    if changed := _changed_arguments(spec.get("kwargs") or {}, name):
        found = f"arguments {', '.join(changed)}"
        _wrong(f"{name} as it is registered, for which the references hold", found, path, "env_spec.kwargs")
    wrappers = spec.get("additional_wrappers") or []
    if not isinstance(wrappers, list):
        _wrong("a list", repr(wrappers), path, "env_spec.additional_wrappers")
    names = [str(w.get("name")) if isinstance(w, dict) else repr(w) for w in wrappers]
    if acting := [n for n in names if n not in WATCHING_WRAPPERS]:
        expected = f"{name} without wrappers that may change states, actions or rewards"
        _wrong(expected, ", ".join(acting), path, "env_spec.additional_wrappers")
    if (limit := spec.get("max_episode_steps")) not in (None, simulator.max_steps):
        _wrong(f"{simulator.max_steps} steps, the limit of {name}", repr(limit), path, "env_spec.max_episode_steps")
    return simulator


def _changed_arguments(kwargs: Any, env: str) -> list[str]:
    """Return the names of arguments that are not as registered. Those that only change pictures do not count."""
    if not isinstance(kwargs, dict):
        return [repr(kwargs)]
    registered = json.loads(json.dumps(registered_arguments(env), default=str))  # tuples become lists, as in the file
    return sorted(
        name for name, value in kwargs.items() if name not in SHOWING_KWARGS and registered.get(name) != value
    )


def _box(content: dict[str, Any], simulator: Simulator, path: Path) -> tuple[list[float], list[float]]:
    """Return the bounds of the action space. Metadata without them give those of the registered environment."""
    space = _description(content, "action_space", path)
    if space is None:
        return list(simulator.action_low), list(simulator.action_high)
    low, high = _numbers(space.get("low")), _numbers(space.get("high"))
    if space.get("type") != "Box" or not (space.get("shape") == [len(low)] == [len(high)]):
        _wrong("a box with one axis, with as many numbers in `low` as in `high`", repr(space), path, "action_space")
    return low, high


def _numbers(values: Any) -> list[float]:
    """Return `values` if it is a list of numbers without NaN that floats can represent. Otherwise return an empty list."""
    return values if isinstance(values, list) and all(map(_number, values)) else []


def _number(value: Any) -> bool:
    return not math.isnan(value) if isinstance(value, float) else type(value) is int and abs(value) < 2**53


def _wrong(expected: str, found: str, path: Path, field: str, action: str = "") -> NoReturn:
    raise ContractError(
        expected=expected,
        found=found[:200],
        where=f"{path}:{field}",
        action=action or "record the data set in the environment as it is registered, or leave it out",
    )
