"""Does what KFP's launcher does around a container: builds its executor input, fills placeholders, and reads its outputs back.

A task has succeeded when all its declared outputs exist and are sound. Exit code 0 alone is not enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, ContractError
from instar.executor import DIGEST
from instar.pipelines.containers.program import Task, cast

Artifacts = Mapping[str, list[dict[str, Any]]]  # name -> KFP runtime artifacts {name, type, uri, metadata}
ANY = re.compile(r"\{\{\$(.*?)\}\}")
KEYED = re.compile(
    r"\.(inputs)\.(parameters)\['([^']+)'\]"
    r"|\.(inputs|outputs)\.(artifacts)\['([^']+)'\]\.(?:uri|path)"
    r"|\.(outputs)\.(parameters)\['([^']+)'\]\.output_file"
)
PLAIN = (
    *("", ".outputs.output_file", ".outputMetadataUri", ".pipeline_job_name", ".pipeline_job_resource_name"),
    *(".pipeline_job_uuid", ".pipeline_task_name", ".pipeline_task_uuid", ".pipeline_root"),
)
PAGES = ("system.HTML", "system.Markdown")  # pages for people; every other artifact except metrics is a pointer
METRICS = ("system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics")
LIMIT = 1 << 20  # bytes of one small file


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a finished task hands on: parameter values, and runtime artifacts by name."""

    parameters: Mapping[str, Any]
    artifacts: Artifacts


def references(text: str, where: str) -> list[tuple[str, str, str]]:
    """Return the ports that the placeholders of `text` name, as (inputs|outputs, parameters|artifacts, name).

    Raises `ConfigError` for any other use of the placeholder syntax.
    """
    ports: list[tuple[str, str, str]] = []
    for inner in ANY.findall(text):
        match = KEYED.fullmatch(inner)
        if match:
            side, kind, name = (group for group in match.groups() if group)
            ports.append((side, kind, name))
        elif inner not in PLAIN:
            raise _unknown("{{$" + inner + "}}", where)
    if "{{$" in ANY.sub("", text) or text.startswith(('{"Concat"', '{"IfPresent"')):
        raise _unknown(text[:80], where)
    return ports


def build(task: Task, parameters: Mapping[str, Any], artifacts: Artifacts, folder: Path) -> dict[str, Any]:
    """Return the executor input of `task`. The task writes its outputs to files directly in `folder`."""
    outputs = {
        name: [{"name": name, "type": port.schema(), "uri": str(folder / name), "metadata": {}}]
        for name, port in task.out_artifacts.items()
    }
    return {
        "inputs": {
            "parameterValues": dict(parameters),
            "artifacts": {name: {"artifacts": entries} for name, entries in artifacts.items()},
        },
        "outputs": {
            "artifacts": {name: {"artifacts": entries} for name, entries in outputs.items()},
            "parameters": {name: {"outputFile": str(folder / name)} for name in task.out_parameters},
            "outputFile": str(folder / "executor_output.json"),
        },
    }


def fill(text: str, executor_input: Mapping[str, Any], names: Mapping[str, str], where: str) -> str:
    """Replace the placeholders of `text` in one pass. So inserted text is never read as a placeholder.

    `names` has the values of plain placeholders, for example of `.pipeline_job_name`. Raises `ConfigError` for a placeholder of a
    list of artifacts, because a list has no single place.
    """

    file = str(executor_input["outputs"]["outputFile"])
    plain = {**names, "": json.dumps(executor_input), ".outputs.output_file": file, ".outputMetadataUri": file}

    def value(match: re.Match[str]) -> str:
        if match[1] in plain:
            return plain[match[1]]
        ((side, kind, name),) = references(match[0], where)
        if kind == "parameters" and side == "inputs":
            parameter = executor_input["inputs"]["parameterValues"][name]
            return parameter if isinstance(parameter, str) else json.dumps(parameter)
        if kind == "parameters":
            return str(executor_input["outputs"]["parameters"][name]["outputFile"])
        entries = executor_input[side]["artifacts"][name]["artifacts"]
        if len(entries) != 1:
            raise _unknown(f"{match[0]} for {len(entries)} artifacts", where)
        return str(entries[0]["uri"])

    return ANY.sub(value, text)


def read_outputs(task: Task, executor_input: Mapping[str, Any]) -> Outputs:
    """Return the outputs of a container that ended with exit code 0. Raises `ContractError` if one is missing or unsound."""
    file = Path(executor_input["outputs"]["outputFile"])
    if not task.out_parameters and not task.out_artifacts:
        return Outputs(parameters={}, artifacts={})
    said = _json(file, file.parent, task.name)
    written, metas = said.get("parameterValues", {}), said.get("artifacts", {})
    parameters = {}
    for name, kind in task.out_parameters.items():
        if name in written:
            parameters[name] = cast(written[name], kind, f"{task.name}.{name}")
        else:
            text = _read(Path(executor_input["outputs"]["parameters"][name]["outputFile"]), file.parent, task.name)
            parameters[name] = (
                text if kind == "STRING" else cast(_parsed(text, name, task.name), kind, f"{task.name}.{name}")
            )
    artifacts: dict[str, list[dict[str, Any]]] = {}
    for name in task.out_artifacts:
        (declared,) = executor_input["outputs"]["artifacts"][name]["artifacts"]
        entries = metas.get(name, {}).get("artifacts", [])
        if len(entries) != 1 or entries[0].get("uri", declared["uri"]) != declared["uri"]:
            raise _broken(
                f"one artifact '{name}' at its declared place in executor_output.json", f"{len(entries)}", task.name
            )
        metadata = entries[0].get("metadata", {})
        _check_file(declared, metadata, file.parent, task.name)
        artifacts[name] = [{**declared, "metadata": metadata}]
    return Outputs(parameters=parameters, artifacts=artifacts)


def _check_file(declared: Mapping[str, Any], metadata: Mapping[str, Any], folder: Path, task: str) -> None:
    path, title = Path(declared["uri"]), declared["type"]["schemaTitle"]
    if "instar.type" not in metadata and title in METRICS:
        return  # the metadata of KFP metrics is their content
    text = _read(path, folder, task)
    if "instar.type" not in metadata and title in PAGES:
        return
    pointer = _parsed(text, declared["name"], task)
    sound = isinstance(pointer, dict) and isinstance(pointer.get("type"), str)
    if not sound or not DIGEST.fullmatch(str(pointer.get("digest"))):
        found = f"{len(text)} other characters in {path.name}"
        raise _broken('a pointer {"digest": "sha256:...", "type": ...}', found, task)
    if metadata.get("instar.digest", pointer["digest"]) != pointer["digest"]:
        raise _broken("one digest in pointer and metadata", f"two for '{declared['name']}'", task)


def _json(path: Path, folder: Path, task: str) -> dict[str, Any]:
    value = _parsed(_read(path, folder, task), path.name, task)
    if not isinstance(value, dict):
        raise _broken(f"a mapping in {path.name}", type(value).__name__, task)
    return value


def _read(path: Path, folder: Path, task: str) -> str:
    """Return the text of a small regular file in the folder. A link that leads out of the folder is refused."""
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise _broken(f"file {path.name}", "a link or folder" if path.is_symlink() or path.exists() else "none", task)
    data = path.read_bytes() if path.stat().st_size <= LIMIT else None
    try:
        return (data if data is not None else b"\xff").decode()
    except UnicodeDecodeError:
        raise _broken(f"at most {LIMIT} bytes of UTF-8 in {path.name}", f"{path.stat().st_size} bytes", task) from None


def _parsed(text: str, name: str, task: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _broken(f"JSON in {name}", f"{len(text)} other characters", task) from None


def _unknown(found: str, where: str) -> ConfigError:
    return ConfigError(
        expected="a placeholder that this runner knows",
        found=found,
        where=where,
        action="use the executor input {{$}} instead",
    )


def _broken(expected: str, found: str, task: str) -> ContractError:
    return ContractError(
        expected=expected,
        found=found,
        where=f"task {task}",
        action="write every declared output, then executor_output.json",
    )
