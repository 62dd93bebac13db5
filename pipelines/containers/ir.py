"""Reads a compiled KFP pipeline (pipeline spec and platform spec) into a `Program`.

The reader is strict. A construct that it does not know is an error that names the construct. If it were skipped silently, a stage
might never run.
"""

from __future__ import annotations

import graphlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path

from instar.errors import MissingDependencyError
from instar.pipelines.containers.ir_machine import only, refused
from instar.pipelines.containers.ir_task import (
    Raw,
    Reader,
    artifact,
    checked,
    malformed,
    output_of,
    parameter,
    read_task,
)
from instar.pipelines.containers.program import (
    Constant,
    Item,
    Loop,
    Output,
    Parameter,
    Port,
    Program,
    Source,
    Task,
    cast,
)

# `retryPolicy` has no meaning here. It is for lost nodes; a stage that fails is tried again by the supervisor in its image.
KEYS = ("taskInfo", "inputs", "dependentTasks", "cachingOptions", "componentRef", "retryPolicy")


def load(path: Path) -> Program:
    """Return the program in the file `path`. Raises `ConfigError` for anything malformed, missing or unknown."""
    try:
        spec, settings, deadline_s = _documents(path)
        root = spec["root"]
        only(root, ("dag", "inputDefinitions"), f"{path}: root")
        only(root.get("inputDefinitions", {}), ("parameters",), f"{path}: root.inputDefinitions")
        declared = root.get("inputDefinitions", {}).get("parameters", {})
        types = {checked(name): p["parameterType"] for name, p in declared.items()}
        defaults = {n: cast(p["defaultValue"], types[n], n) for n, p in declared.items() if "defaultValue" in p}
        reader = Reader(spec.get("components", {}), spec["deploymentSpec"]["executors"], settings, {})
        tasks = _graph(root["dag"], {name: Parameter(name) for name in types}, reader)
        name = checked(spec["pipelineInfo"]["name"])
    except (KeyError, IndexError) as error:
        raise malformed(f"no {error} where one is needed", str(path)) from error
    return Program(name=name, tasks=tasks, parameters=types, defaults=defaults, deadline_s=deadline_s)


def _documents(path: Path) -> tuple[Raw, Raw, float]:
    """Return the pipeline spec, the Kubernetes settings by executor, and the deadline of a run in seconds.

    Both documents are parsed as protobuf messages of KFP. So unknown fields and wrong types are refused.
    """
    try:
        import yaml

        json_format = importlib.import_module("google.protobuf.json_format")
        pb = importlib.import_module("kfp.pipeline_spec.pipeline_spec_pb2")
        settings_pb = importlib.import_module("kfp.kubernetes.kubernetes_executor_config_pb2")
    except ImportError as error:
        raise MissingDependencyError(
            expected="kfp, to read compiled pipelines",
            found=f"no module '{error.name}'",
            where=str(path),
            action="pip install 'instar[kubeflow]'",
        ) from error
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
        spec, platform = [*documents, {}][:2]
        json_format.ParseDict(spec, pb.PipelineSpec())
        json_format.ParseDict(spec["deploymentSpec"], pb.PipelineDeploymentConfig())
        json_format.ParseDict(platform, pb.PlatformSpec())
        only(platform.get("platforms", {}), ("kubernetes",), f"{path}: platforms")
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        settings = kubernetes.get("deploymentSpec", {}).get("executors", {})
        for config in settings.values():
            json_format.ParseDict(config, settings_pb.KubernetesExecutorConfig())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, json_format.ParseError) as error:
        raise malformed(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", str(path)) from error
    if len(documents) > 2 or set(settings) - set(spec["deploymentSpec"].get("executors", {})):
        raise malformed("a third document, or settings for an executor that does not exist", str(path))
    only(kubernetes, ("deploymentSpec", "pipelineConfig"), f"{path}: kubernetes")
    config = kubernetes.get("pipelineConfig", {})
    lifetimes = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure")
    only(config, (*lifetimes, "activeDeadlineSeconds"), f"{path}: pipelineConfig")
    return spec, settings, float(config.get("activeDeadlineSeconds", 0))


def _graph(dag: Raw, inputs: Mapping[str, Source], reader: Reader) -> tuple[Task | Loop, ...]:
    raw = dag["tasks"]
    after = {name: sorted(_before(task)) for name, task in sorted(raw.items())}
    if dangling := {name for names in after.values() for name in names} - set(raw):
        raise malformed(f"tasks after {sorted(dangling)}, which do not exist", "dag.tasks")
    try:
        order = list(graphlib.TopologicalSorter(after).static_order())
    except graphlib.CycleError as error:
        raise malformed(f"a circle of tasks: {' -> '.join(error.args[1])}", "dag.tasks") from error
    return tuple(_node(checked(name), raw, inputs, reader) for name in order)


def _before(task: Raw) -> set[str]:
    inputs = task.get("inputs", {})
    used = [p.get("taskOutputParameter") for p in inputs.get("parameters", {}).values()]
    used += [a.get("taskOutputArtifact") for a in inputs.get("artifacts", {}).values()]
    return set(task.get("dependentTasks", ())) | {output["producerTask"] for output in used if output}


def _node(name: str, graph: Raw, inputs: Mapping[str, Source], reader: Reader) -> Task | Loop:
    raw, where = graph[name], f"task {name}"
    if name in reader.outputs:
        raise malformed("a second task of this name", where)
    component, wired = reader.components[raw["componentRef"]["name"]], raw.get("inputs", {})
    only(raw, (*KEYS, "parameterIterator", "iteratorPolicy"), where)
    parameters = {n: parameter(p, inputs, graph, reader, where) for n, p in wired.get("parameters", {}).items()}
    artifacts = {n: artifact(a, inputs, graph, reader, where) for n, a in wired.get("artifacts", {}).items()}
    if "dag" not in component:
        only(raw, KEYS, where)
        return read_task(name, component, parameters, artifacts, reader)
    if "parameterIterator" not in raw:
        raise refused("a pipeline, condition or exit handler inside the pipeline", where)
    if Item() in inputs.values():
        raise refused("a loop inside a loop", where)
    return _loop(name, raw, component, {**parameters, **artifacts}, reader)


def _loop(name: str, raw: Raw, component: Raw, inputs: Mapping[str, Source], reader: Reader) -> Loop:
    where, iterator = f"task {name}", raw["parameterIterator"]
    only(component, ("dag", "inputDefinitions", "outputDefinitions"), where)
    items = iterator["items"]
    source = inputs[items["inputParameter"]] if "inputParameter" in items else Constant(json.loads(items["raw"]))
    if isinstance(source, Constant):
        cast(source.value, "LIST", f"{where}.items")
    tasks = _graph(component["dag"], {**inputs, iterator["itemInput"]: Item()}, reader)
    outputs = component["dag"].get("outputs", {})
    artifacts, parameters = {}, {}
    for key, selected in outputs.get("artifacts", {}).items():
        if len(selected["artifactSelectors"]) != 1:
            raise refused("an output chosen from several tasks", where)
        one = selected["artifactSelectors"][0]
        artifacts[key] = Output(one["producerSubtask"], one["outputArtifactKey"])
    for key, selected in outputs.get("parameters", {}).items():
        only(selected, ("valueFromParameter",), where)
        one = selected["valueFromParameter"]
        parameters[key] = Output(one["producerSubtask"], one["outputParameterKey"])
    inner = {task.name for task in tasks}
    ports = {key: output_of(output, inner, reader, where) for key, output in {**artifacts, **parameters}.items()}
    if any(isinstance(ports[key], Port) != (key in artifacts) for key in ports):
        raise malformed("an artifact for a parameter", where)
    reader.outputs[name] = {
        key: Port(title=p.title, version=p.version, many=True) if isinstance(p, Port) else "LIST"
        for key, p in ports.items()
    }
    return Loop(
        name=name,
        items=source,
        tasks=tuple(task for task in tasks if isinstance(task, Task)),
        out_parameters=parameters,
        out_artifacts=artifacts,
        parallelism=int(raw.get("iteratorPolicy", {}).get("parallelismLimit", 0)),
    )
