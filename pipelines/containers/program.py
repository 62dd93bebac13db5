"""A compiled pipeline as plain values: its tasks in order, the source of each input, the type of each output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instar.errors import ConfigError


@dataclass(frozen=True)
class Constant:
    """A value that is written into the pipeline. A string may contain placeholders."""

    value: Any


@dataclass(frozen=True)
class Parameter:
    """A parameter of the pipeline."""

    name: str


@dataclass(frozen=True)
class Item:
    """The item of the loop around the task."""


@dataclass(frozen=True)
class Output:
    """An output of an earlier task. For a loop it is a list with one element for each item, in their order."""

    task: str
    key: str


Source = Constant | Parameter | Item | Output


@dataclass(frozen=True, kw_only=True)
class Port:
    """KFP's type of an artifact. `many` says that the port carries a list of them."""

    title: str
    version: str
    many: bool = False

    def schema(self) -> dict[str, str]:
        """Return the type as KFP writes it."""
        return {"schemaTitle": self.title, "schemaVersion": self.version}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a task asks for: CPUs, bytes of memory, seconds (0 means no limit), mounts and variables.

    `memory_mounts` maps a path to its bytes. `supplied` maps a variable that the platform sets to whether the task needs it.
    """

    cpu: float = 0.0
    memory: int = 0
    accelerators: int = 0
    timeout_s: float = 0.0
    memory_mounts: Mapping[str, int]
    disk_mounts: tuple[str, ...] = ()
    supplied: Mapping[str, bool]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One container: what it runs, what it reads, what it must write."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    parameters: Mapping[str, Source]
    types: Mapping[str, str]
    artifacts: Mapping[str, Source]
    out_parameters: Mapping[str, str]
    out_artifacts: Mapping[str, Port]
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Tasks that run once for each item. `out_parameters` and `out_artifacts` name the outputs that are collected."""

    name: str
    items: Source
    tasks: tuple[Task, ...]
    out_parameters: Mapping[str, Output]
    out_artifacts: Mapping[str, Output]
    parallelism: int
    """Items that run at one time; 0 means any number."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A pipeline. `parameters` maps each name to its type; those in `defaults` may be left out.

    `deadline_s` bounds the whole run in seconds; 0 means no deadline.
    """

    name: str
    tasks: tuple[Task | Loop, ...]
    parameters: Mapping[str, str]
    defaults: Mapping[str, Any]
    deadline_s: float


def cast(value: Any, kind: str, where: str) -> Any:
    """Return `value` as KFP's parameter type `kind`. Raises `ConfigError` if it has another type.

    YAML and protobuf may write the integer 1 as 1.0, so such a value is accepted as an integer.
    """
    if kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "NUMBER_DOUBLE" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = {
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": float,
        "BOOLEAN": bool,
        "STRING": str,
        "LIST": list,
        "STRUCT": dict,
    }
    if (
        kind not in right
        or not isinstance(value, right[kind])
        or (kind == "NUMBER_INTEGER" and isinstance(value, bool))
    ):
        raise ConfigError(
            expected=f"a {kind}", found=type(value).__name__, where=where, action="pass a value of this type"
        )
    return value
