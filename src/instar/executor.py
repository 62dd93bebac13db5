"""Kubeflow's executor input and output: how a container learns its parameters and how it reports its outputs.

KFP moves only pointer files. A pointer file is a small JSON object with a digest; the bytes of the artifact stay in the store.
An empty digest stands for an optional input that is absent. A pointer with `stopped` says that the gate has ended the
evolution earlier in this run. A stage that receives such a pointer passes it on and does nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import plain
from instar.errors import ConfigError, ContractError

DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?")
"""The digest in a pointer: that of an artifact, or an empty text."""
MOUNTS = {"s3": "s3", "minio": "minio", "gs": "gcs"}
"""Scheme of an artifact's URI -> folder in the container where KFP's launcher mounts it."""


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """The content of a pointer file."""

    digest: str
    type: str
    stopped: str = ""

    def dump(self) -> str:
        """Return the file's text."""
        stopped = {"stopped": self.stopped} if self.stopped else {}
        return json.dumps({"digest": self.digest, "type": self.type, **stopped}, sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class ExecutorInput:
    """Parsed executor input: the parameters, and the pointers of each input port.

    A port has several pointers if KFP collected them from a parallel loop, for example from the shards of a rollout.
    """

    parameters: dict[str, Any]
    pointers: dict[str, list[Pointer]]
    outputs: dict[str, dict[str, Any]]
    """Output name -> KFP's declaration of the artifact."""
    output_file: Path
    parameter_files: dict[str, Path] = field(default_factory=dict)

    def digests(self) -> dict[str, str]:
        """Return name -> digest of the inputs that are present. Several pointers of port `p` have the names `p.0`, `p.1`, ..."""
        digests: dict[str, str] = {}
        for port, pointers in self.pointers.items():
            many = len(pointers) > 1
            digests |= {f"{port}.{i}" if many else port: p.digest for i, p in enumerate(pointers) if p.digest}
        return digests

    @property
    def stopped(self) -> str:
        """Return why the evolution has ended, if an input says so."""
        return next((p.stopped for pointers in self.pointers.values() for p in pointers if p.stopped), "")


def parse(argument: str) -> ExecutorInput:
    """Parse executor input. Raise `ContractError` for any other text."""
    try:
        raw = plain.loads(argument)
        inputs, outputs = raw.get("inputs", {}), raw["outputs"]
        parameters = inputs.get("parameterValues", {})
        if not isinstance(parameters, dict):
            raise TypeError("parameterValues is not an object")
        return ExecutorInput(
            parameters=parameters,
            pointers={
                name: [_pointer(item["uri"]) for item in declared["artifacts"]]
                for name, declared in inputs.get("artifacts", {}).items()
            },
            outputs={name: declared["artifacts"][0] for name, declared in outputs.get("artifacts", {}).items()},
            output_file=Path(outputs["outputFile"]),
            parameter_files={n: Path(d["outputFile"]) for n, d in outputs.get("parameters", {}).items()},
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ContractError(
            expected="KFP executor input in JSON",
            found=f"{type(error).__name__}: {error}",
            where="--executor-input",
            action="pass KFP's placeholder {{$}} as one argument",
        ) from error


def integer(values: Mapping[str, Any], key: str) -> int:
    """Return a parameter that is an integer from 0 to 2^53; `ConfigError` for anything else.

    It may be an integer, a float such as 3.0 (KFP sends numbers this way) or a text of digits.
    """
    value = values.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    whole = whole or (isinstance(value, float) and value.is_integer())
    whole = whole or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value) is not None)
    number = int(value) if whole and value is not None else -1
    if not 0 <= number <= 2**53:
        raise _wrong("an integer from 0 to 2^53", value, key)
    return number


def text(values: Mapping[str, Any], key: str) -> str:
    """Return a text parameter; `ConfigError` for anything else."""
    value = values.get(key)
    if not isinstance(value, str) or "\0" in value:
        raise _wrong("a text", value, key)
    return value


def flag(values: Mapping[str, Any], key: str) -> bool:
    """Return a parameter that is true or false, in JSON or as a word; `ConfigError` for anything else."""
    word = str(values.get(key)).lower()
    if word not in ("true", "false"):
        raise _wrong("true or false", values.get(key), key)
    return word == "true"


def document(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a text parameter that holds JSON; `ConfigError` when it is not JSON."""
    try:
        return plain.loads(text(values, key))
    except (ValueError, RecursionError) as error:
        raise _wrong("JSON", values[key], key) from error


def _wrong(expected: str, value: Any, key: str) -> ConfigError:
    shown = "nothing" if value is None else repr(value)[:200]
    return ConfigError(expected=expected, found=shown, where=f"parameter {key}", action="correct the parameter")


def _pointer(uri: str) -> Pointer:
    path = Path(local_path(uri))
    try:
        raw = plain.loads(path.read_text())
        pointer = Pointer(digest=raw["digest"], type=raw.get("type", ""), stopped=raw.get("stopped", ""))
        if (
            not DIGEST.fullmatch(pointer.digest)
            or not isinstance(pointer.type, str)
            or not isinstance(pointer.stopped, str)
        ):
            raise ValueError("not a pointer")
        return pointer
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(
            expected="a pointer file with a digest",
            found=f"{type(error).__name__}",
            where=str(path),
            action="run the task that writes it again",
        ) from error


def write(
    executor_input: ExecutorInput,
    pointers: Mapping[str, Pointer],
    metadata: Mapping[str, Any],
    files: Mapping[str, tuple[str, Mapping[str, Any]]],
    parameters: Mapping[str, Any] | None = None,
) -> None:
    """Write every declared output and then `executor_output.json`.

    `files` maps each output that is not a pointer, such as metrics or a report, to its text and its metadata. Every pointer
    artifact gets `metadata`, with `instar.` in front of each key.
    """
    artifacts: dict[str, Any] = {}
    for name, declared in executor_input.outputs.items():
        if name in pointers:
            pointer = pointers[name]
            content, extra = pointer.dump(), {"instar.type": pointer.type, "instar.digest": pointer.digest}
            extra |= {f"instar.{key}": value for key, value in metadata.items()}
        else:
            content, file_metadata = files[name]
            extra = dict(file_metadata)
        target = Path(local_path(declared["uri"]))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        artifacts[name] = {"artifacts": [{**declared, "metadata": extra}]}
    values = {name: value for name, value in (parameters or {}).items() if name in executor_input.parameter_files}
    for name, value in values.items():
        executor_input.parameter_files[name].parent.mkdir(parents=True, exist_ok=True)
        executor_input.parameter_files[name].write_text(str(value))
    executor_input.output_file.parent.mkdir(parents=True, exist_ok=True)
    executor_input.output_file.write_text(json.dumps({"artifacts": artifacts, "parameterValues": values}))


def local_path(uri: str) -> str:
    """Return the path of an artifact URI inside a container."""
    scheme, separator, rest = uri.partition("://")
    return f"/{MOUNTS[scheme]}/{rest}" if separator and scheme in MOUNTS else uri
