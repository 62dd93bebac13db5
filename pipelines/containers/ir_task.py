"""Reads one task of a compiled pipeline: its container, and where each of its inputs comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from instar.errors import ConfigError
from instar.pipelines.containers.ir_machine import machine, only, refused
from instar.pipelines.containers.launcher import references
from instar.pipelines.containers.program import Constant, Output, Port, Source, Task, cast

Raw = Mapping[str, Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # names become file names
CHANNEL = "pipelinechannel--"  # KFP's own inputs, which placeholders in constants refer to


@dataclass(frozen=True)
class Reader:
    """The parts of a package, and in `outputs` the outputs of the tasks read so far: a port, or the type of a parameter."""

    components: Raw
    executors: Raw
    settings: Raw
    outputs: dict[str, dict[str, Port | str]]


def read_task(
    name: str, component: Raw, parameters: Mapping[str, Source], artifacts: Mapping[str, Source], reader: Reader
) -> Task:
    """Return a container task. Raises `ConfigError` if it is wired wrongly or is not a plain container."""
    where = f"task {name}"
    only(component, ("executorLabel", "inputDefinitions", "outputDefinitions"), where)
    label = component["executorLabel"]
    only(reader.executors[label], ("container",), f"executor {label}")
    container = reader.executors[label]["container"]
    only(container, ("image", "command", "args", "env", "resources"), f"executor {label}")
    ins, outs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    types = {checked(n): p["parameterType"] for n, p in ins.get("parameters", {}).items()}
    out_types = {checked(n): p["parameterType"] for n, p in outs.get("parameters", {}).items()}
    ports = {checked(n): port(a) for n, a in outs.get("artifacts", {}).items()}
    reader.outputs[name] = {**ports, **out_types}
    if len(reader.outputs[name]) < len(ports) + len(out_types) or "executor_output.json" in reader.outputs[name]:
        raise malformed("two outputs of one name", where)
    env = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    task = Task(
        name=name,
        image=container["image"],
        command=tuple(container.get("command", ())),
        args=tuple(container.get("args", ())),
        env=env,
        parameters=_parameters(ins.get("parameters", {}), parameters, where),
        types=types,
        artifacts=_artifacts(ins.get("artifacts", {}), artifacts, reader, where),
        out_parameters=out_types,
        out_artifacts=ports,
        machine=machine(container.get("resources", {}), reader.settings.get(label, {}), where),
    )
    _check_placeholders(task, where)
    return task


def parameter(raw: Raw, inputs: Mapping[str, Source], siblings: Collection[str], reader: Reader, where: str) -> Source:
    """Return where a parameter comes from."""
    if "runtimeValue" in raw:
        only(raw["runtimeValue"], ("constant",), where)
        return Constant(raw["runtimeValue"]["constant"])
    if "taskOutputParameter" in raw:
        output = Output(raw["taskOutputParameter"]["producerTask"], raw["taskOutputParameter"]["outputParameterKey"])
        output_of(output, siblings, reader, where)
        return output
    only(raw, ("componentInputParameter",), where)
    return inputs[raw["componentInputParameter"]]


def artifact(raw: Raw, inputs: Mapping[str, Source], siblings: Collection[str], reader: Reader, where: str) -> Source:
    """Return where an artifact comes from."""
    if "taskOutputArtifact" in raw:
        output = Output(raw["taskOutputArtifact"]["producerTask"], raw["taskOutputArtifact"]["outputArtifactKey"])
        output_of(output, siblings, reader, where)
        return output
    only(raw, ("componentInputArtifact",), where)
    return inputs[raw["componentInputArtifact"]]


def output_of(output: Output, siblings: Collection[str], reader: Reader, where: str) -> Port | str:
    """Return the port of an output of a task in the same graph, or the type of a parameter."""
    if output.task not in siblings or output.key not in reader.outputs.get(output.task, {}):
        raise malformed(f"output '{output.key}' of task '{output.task}', which does not exist", where)
    return reader.outputs[output.task][output.key]


def port(raw: Raw) -> Port:
    """Return an output port for one artifact. A task that writes a list of artifacts is refused."""
    if raw.get("isArtifactList"):
        raise refused("an output that is a list of artifacts", "outputDefinitions")
    return Port(title=raw["artifactType"]["schemaTitle"], version=raw["artifactType"].get("schemaVersion", ""))


def checked(name: str) -> str:
    """Return a name that is safe as a file name."""
    if not NAME.fullmatch(name):
        raise malformed(f"the name {name!r}", "pipeline")
    return name


def malformed(found: str, where: str) -> ConfigError:
    """Return the error for a package that the compiler cannot have written."""
    return ConfigError(expected="a compiled pipeline", found=found, where=where, action="compile it again")


def _parameters(declared: Raw, sources: Mapping[str, Source], where: str) -> dict[str, Source]:
    out: dict[str, Source] = {}
    for name, spec in declared.items():
        if name in sources:
            out[name] = sources[name]
        elif "defaultValue" in spec:
            out[name] = Constant(spec["defaultValue"])
        elif not spec.get("isOptional"):
            raise malformed(f"no value for parameter '{name}'", where)
        if isinstance(out.get(name), Constant):
            out[name] = Constant(cast(out[name].value, spec["parameterType"], f"{where}.{name}"))  # type: ignore[union-attr]
    channels = {name: source for name, source in sources.items() if name not in declared}
    if unknown := [name for name in channels if not name.startswith(CHANNEL)]:
        raise malformed(f"parameters {sorted(unknown)}, which the component does not have", where)
    return out | channels


def _artifacts(declared: Raw, sources: Mapping[str, Source], reader: Reader, where: str) -> dict[str, Source]:
    missing = [name for name, spec in declared.items() if name not in sources and not spec.get("isOptional")]
    if missing or set(sources) - set(declared):
        raise malformed(f"artifacts {sorted(sources)} where the component has {sorted(declared)}", where)
    for name, source in sources.items():
        port = reader.outputs.get(source.task, {}).get(source.key) if isinstance(source, Output) else None
        wanted, many = declared[name]["artifactType"]["schemaTitle"], bool(declared[name].get("isArtifactList"))
        if not isinstance(port, Port) or port.many != many or wanted not in (port.title, "system.Artifact"):
            raise malformed(f"{port} for input '{name}', {wanted}{' (list)' if many else ''}", where)
    return dict(sources)


def _check_placeholders(task: Task, where: str) -> None:
    """Raise `ConfigError` for a placeholder that is unknown or names a port that the task does not have."""
    constants = [s.value for s in task.parameters.values() if isinstance(s, Constant) and isinstance(s.value, str)]
    there = {("inputs", "parameters"): task.parameters, ("inputs", "artifacts"): task.artifacts}
    there |= {("outputs", "parameters"): task.out_parameters, ("outputs", "artifacts"): task.out_artifacts}  # type: ignore[dict-item]
    if any("{{$}}" in text or "{{$.output" in text for text in constants):
        raise malformed("a placeholder for outputs in a constant", where)
    for text in (*task.command, *task.args, *task.env.values(), *constants):
        for side, kind, name in references(text, where):
            if name not in there[side, kind] or (text in constants and kind == "artifacts"):
                raise malformed(f"a placeholder for {side}.{kind} '{name}', which does not exist", where)
