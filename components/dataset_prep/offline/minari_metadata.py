"""What a Minari data set says of itself: the one way in for a `metadata.json` that others wrote.

The environment is taken only as it is registered. Its references, the returns of a random policy and of an expert, hold for no
other: a recording with another gravity, a wrapper that changes rewards, or a longer episode is refused by the field that says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from instar.components.dataset_prep.offline.tasks import action_box, find_environment
from instar.errors import ArtifactError, ContractError

T = TypeVar("T")
MAX_BYTES = 2**24
"""Real metadata have a few KB."""
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
"""Arguments of an environment that change pictures only."""
WATCHING_WRAPPERS = {
    "PassiveEnvChecker",
    "OrderEnforcing",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
    "HumanRendering",
    "DataCollector",
}
"""Wrappers of gymnasium and Minari that pass states, actions and rewards on as they are."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The fields that are read. `total_episodes` is None where the file does not say."""

    name: str
    algorithm: str
    env: str
    action_low: list[float]
    action_high: list[float]
    total_episodes: int | None


def read_metadata(path: Path) -> Metadata:
    """Return what `path` says. A file that is no JSON object is an `ArtifactError`, a field that is wrong a `ContractError`."""
    content = _object(path)
    stored = _field(content, "data_format", str, path) or "hdf5"
    if stored != "hdf5":
        _wrong("hdf5", stored, path, "data_format", "write the data set again with data_format='hdf5'")
    name = _field(content, "dataset_id", str, path) or path.parent.name
    env = _environment(content, path)
    low, high = _box(content, env, path)
    return Metadata(
        name=name,
        algorithm=_field(content, "algorithm_name", str, path) or name,
        env=env,
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
    """Return an optional field; one of another type is a `ContractError`."""
    value = content.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        _wrong(f"of type {kind.__name__}", repr(value), path, name)
    return value


def _description(content: dict[str, Any], name: str, path: Path) -> dict[str, Any] | None:
    """Return a field that holds an object, or its JSON as text, which is how Minari writes it. None where it is empty."""
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


def _environment(content: dict[str, Any], path: Path) -> str:
    """Return the id of the environment, which must be the registered one in everything that acts on a policy."""
    spec = _description(content, "env_spec", path)
    if spec is None:
        _wrong("an environment", "none", path, "env_spec")
    name = spec.get("id")
    if not isinstance(name, str) or not name:
        _wrong("gymnasium's description of an environment, with its id", repr(spec), path, "env_spec")
    environment = find_environment(name)
    kwargs = spec.get("kwargs") or {}
    changed = sorted(set(kwargs) - SHOWING_KWARGS) if isinstance(kwargs, dict) else [repr(kwargs)]
    if changed:
        found = f"arguments {', '.join(changed)}"
        _wrong(f"{name} as it is registered, for which the references hold", found, path, "env_spec.kwargs")
    wrappers = spec.get("additional_wrappers") or []
    if not isinstance(wrappers, list):
        _wrong("a list", repr(wrappers), path, "env_spec.additional_wrappers")
    names = [str(w.get("name")) if isinstance(w, dict) else repr(w) for w in wrappers]
    if acting := [n for n in names if n not in WATCHING_WRAPPERS]:
        expected = f"{name} without wrappers that may change states, actions or rewards"
        _wrong(expected, ", ".join(acting), path, "env_spec.additional_wrappers")
    if (limit := spec.get("max_episode_steps")) not in (None, environment.max_steps):
        _wrong(f"{environment.max_steps} steps, the limit of {name}", repr(limit), path, "env_spec.max_episode_steps")
    return name


def _box(content: dict[str, Any], env: str, path: Path) -> tuple[list[float], list[float]]:
    """Return the bounds of the action space; where the metadata lack it, those of the registered environment."""
    space = _description(content, "action_space", path)
    if space is None:
        return action_box(env)
    low, high = _numbers(space.get("low")), _numbers(space.get("high"))
    if space.get("type") != "Box" or not (space.get("shape") == [len(low)] == [len(high)]):
        _wrong("a box of one axis, with as many numbers in `low` and `high`", repr(space), path, "action_space")
    return low, high


def _numbers(values: Any) -> list[float]:
    """Return a list of numbers that floats hold, none of them NaN; an empty one for anything else."""
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
