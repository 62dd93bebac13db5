"""Compiled pipelines are read whole or refused."""
# ruff: noqa: ARG001 (a component's arguments are its interface)

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035 (kfp reads this form)

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from instar.errors import ConfigError
from instar.pipelines.containers import ir, launcher
from instar.pipelines.containers import values as filling
from instar.pipelines.containers.program import Constant, Item, Loop, Machine, Parameter, Port, Program, Task
from instar.pipelines.containers.program import Output as From

DATASET = Port(title="system.Dataset", version="0.0.1")


@dsl.container_component
def make(
    store: str,
    n: int,
    rate: float,
    made: Output[Dataset],
    label: dsl.OutputPath(str),  # pyright: ignore[reportInvalidTypeForm]
    count: dsl.OutputPath(int),  # pyright: ignore[reportInvalidTypeForm]
):
    return dsl.ContainerSpec(
        image="img@sha256:1", command=["stage", "make"], args=["--executor-input", "{{$}}", f"n={n}"]
    )


@dsl.container_component
def shard(store: str, shard: int, batch: Input[Dataset], part: Output[Dataset], extra: Optional[Input[Model]] = None):  # noqa: UP045
    return dsl.ContainerSpec(image="img@sha256:1", command=["stage", "shard"], args=["{{$}}", batch.path, part.uri])


@dsl.container_component
def gather(parts: Input[List[Dataset]], single: Input[Artifact], label: str, run: str, out: Output[Model]):  # noqa: UP006
    return dsl.ContainerSpec(image="img@sha256:1", command=["stage", "gather"], args=["{{$}}"])


@dsl.pipeline(name="segment")
def segment(store: str, rate: float = 1, steps: int = 4) -> None:
    first = make(store=store, n=steps, rate=rate)
    first.set_env_variable("OMP_NUM_THREADS", "1").set_cpu_limit("500m").set_memory_limit("3Gi")
    first.set_caching_options(False).set_retry(2)
    kubernetes.use_secret_as_env(first, "instar-store", {"accesskey": "AWS_ACCESS_KEY_ID"})
    kubernetes.empty_dir_mount(first, "shm", "/dev/shm", medium="Memory", size_limit="1Gi")
    kubernetes.empty_dir_mount(first, "scratch", "/scratch")
    kubernetes.set_timeout(first, 60)
    kubernetes.add_node_selector(first, "disk", "nvme")
    kubernetes.add_toleration(first, key="nvidia.com/gpu", operator="Exists")
    kubernetes.set_security_context(first, run_as_non_root=True)
    with dsl.ParallelFor([4, 5, 6], parallelism=2) as item:
        one = shard(store=store, shard=item, batch=first.outputs["made"])
        two = shard(store=f"{store}/x", shard=7, batch=one.outputs["part"])
    gather(
        parts=dsl.Collected(two.outputs["part"]),
        single=first.outputs["made"],
        label=first.outputs["label"],
        run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )


def compiled(pipeline: Any, folder: Path) -> Path:
    path = folder / "p.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compiled(segment, tmp_path_factory.mktemp("ir")).read_text()))


def read(documents: list[dict[str, Any]], folder: Path) -> Program:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return ir.load(path)


def test_a_program_says_all_that_a_runner_needs(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    program = read(documents, tmp_path)
    assert (program.name, program.deadline_s) == ("segment", 0.0)
    assert program.parameters == {"store": "STRING", "rate": "NUMBER_DOUBLE", "steps": "NUMBER_INTEGER"}
    assert program.defaults == {"rate": 1.0, "steps": 4} and type(program.defaults["steps"]) is int
    first, loop, last = program.tasks
    assert isinstance(first, Task) and isinstance(loop, Loop) and isinstance(last, Task)
    assert (first.image, first.command) == ("img@sha256:1", ("stage", "make"))
    assert first.args == ("--executor-input", "{{$}}", "n={{$.inputs.parameters['n']}}")
    assert first.env == {"OMP_NUM_THREADS": "1"}
    assert first.parameters == {"store": Parameter("store"), "n": Parameter("steps"), "rate": Parameter("rate")}
    assert first.out_parameters == {"label": "STRING", "count": "NUMBER_INTEGER"} and first.out_artifacts == {
        "made": DATASET
    }
    assert first.machine == Machine(
        cpu=0.5,
        memory=3 << 30,
        timeout_s=60.0,
        memory_mounts={"/dev/shm": 1 << 30},
        disk_mounts=("/scratch",),
        supplied={"AWS_ACCESS_KEY_ID": True},
    )
    one, two = loop.tasks
    assert loop.items == Constant([4, 5, 6]) and loop.parallelism == 2
    assert one.parameters["shard"] == Item() and one.artifacts == {"batch": From("make", "made")}
    assert two.parameters["shard"] == Constant(7) and two.artifacts == {"batch": From(one.name, "part")}
    (collected,) = loop.out_artifacts
    assert loop.out_artifacts[collected] == From(two.name, "part")
    assert last.artifacts == {"parts": From(loop.name, collected), "single": From("make", "made")}
    assert last.parameters == {"label": From("make", "label"), "run": Constant("{{$.pipeline_job_uuid}}")}


def test_constants_are_typed_and_their_placeholders_filled(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    program = read(documents, tmp_path)
    given_values = filling.given_values(program, {"store": "s3://b", "rate": 2})
    assert given_values == {"store": "s3://b", "rate": 2.0, "steps": 4}
    loop, last = program.tasks[1], program.tasks[2]
    assert isinstance(loop, Loop) and isinstance(last, Task)
    values = filling.task_values(loop.tasks[1], 5, given_values, {}, {})
    assert values["store"] == "s3://b/x" and values["shard"] == 7 and type(values["shard"]) is int
    made = launcher.Outputs(parameters={"label": "{{$.pipeline_job_name}}"}, artifacts={})
    values = filling.task_values(last, None, given_values, {"make": made}, {".pipeline_job_uuid": "u-1"})
    assert values == {"label": "{{$.pipeline_job_name}}", "run": "u-1"}, "only constants are templates"
    for wrong in ({}, {"store": "x", "stroe": "y"}, {"store": 3}, {"store": "x", "steps": 1.5}):
        with pytest.raises(ConfigError):
            filling.given_values(program, wrong)


@dsl.container_component
def say(text: str, flag: dsl.OutputPath(str)):  # pyright: ignore[reportInvalidTypeForm]
    return dsl.ContainerSpec(image="img", command=["x"], args=["{{$}}"])


@dsl.container_component
def maybe(text: Optional[str] = None):  # noqa: UP045
    shown: Any = dsl.IfPresentPlaceholder("text", "given")
    return dsl.ContainerSpec(image="img", command=["x"], args=[shown])


@dsl.pipeline(name="inner")
def inner(text: str) -> None:
    say(text=text)


def condition(text: str = "a") -> None:
    with dsl.If(say(text=text).outputs["flag"] == "yes"):
        say(text="b")


def imported() -> None:
    dsl.importer(artifact_uri="s3://b/x", artifact_class=Dataset)


def handler() -> None:
    with dsl.ExitHandler(say(text="end")):
        say(text="b")


def nested_loop() -> None:
    with dsl.ParallelFor([1, 2]), dsl.ParallelFor([3, 4]):
        say(text="b")


def nested_pipeline() -> None:
    inner(text="a")


def field_of_item() -> None:
    with dsl.ParallelFor([{"a": "x"}, {"a": "y"}]) as item:
        say(text=item.a)  # pyright: ignore[reportAttributeAccessIssue]


def if_present() -> None:
    maybe(text="x")


def mounted_claim() -> None:
    kubernetes.mount_pvc(say(text="a"), pvc_name="shared", mount_path="/data")


def schedule() -> None:
    say(text=dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (condition, "triggerPolicy"),
        (imported, "importer"),
        (handler, "exit handler"),
        (nested_loop, "loop inside a loop"),
        (nested_pipeline, "a pipeline"),
        (field_of_item, "parameterExpressionSelector"),
        (if_present, "IfPresent"),
        (mounted_claim, "pvcMount"),
        (schedule, "schedule_time"),
    ],
)
def test_what_it_does_not_know_is_named_and_refused(body: Callable[[], None], named: str, tmp_path: Path) -> None:
    path = compiled(dsl.pipeline(name="p")(body), tmp_path)
    with pytest.raises(ConfigError) as error:
        ir.load(path)
    assert named in error.value.found


Change = Callable[[dict[str, Any], dict[str, Any]], Any]
TASKS = ("root", "dag", "tasks")


def _set(*path: str, to: Any) -> Change:
    def change(spec: dict[str, Any], platform: dict[str, Any]) -> None:
        at = platform if path[0] == "platforms" else spec
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = to

    return change


def _drop(*path: str) -> Change:
    def change(spec: dict[str, Any], platform: dict[str, Any]) -> None:
        del platform
        for key in path[:-1]:
            spec = spec[key]
        del spec[path[-1]]

    return change


EXECUTORS = ("platforms", "kubernetes", "deploymentSpec", "executors")
TAMPERED: dict[str, Change] = {
    "field": _set("root", "dag", "loop", to=1),
    "executor field": _set("deploymentSpec", "executors", "exec-make", "container", "shell", to="sh"),
    "hook": _set("deploymentSpec", "executors", "exec-make", "container", "lifecycle", to={"preCacheCheck": {}}),
    "setting": _set(*EXECUTORS, "exec-make", "hostPath", to="/"),
    "settings of nobody": _set(*EXECUTORS, "exec-none", to={}),
    "platform": _set("platforms", "mesos", to={}),
    "circle": _set(*TASKS, "make", "dependentTasks", to=["gather"]),
    "dangling": _set(*TASKS, "make", "dependentTasks", to=["nobody"]),
    "producer": _set(
        *TASKS, "gather", "inputs", "artifacts", "single", "taskOutputArtifact", "outputArtifactKey", to="x"
    ),
    "artifact from a parameter": _set(
        *TASKS, "gather", "inputs", "artifacts", "single", "taskOutputArtifact", "outputArtifactKey", to="label"
    ),
    "list for one": _set(
        "components", "comp-gather", "inputDefinitions", "artifacts", "single", "isArtifactList", to=True
    ),
    "type": _set(
        *("components", "comp-gather", "inputDefinitions", "artifacts", "single", "artifactType", "schemaTitle"),
        to="system.Model",
    ),
    "input missing": _drop(*TASKS, "make", "inputs", "parameters", "n"),
    "artifact missing": _drop(*TASKS, "gather", "inputs", "artifacts", "single"),
    "input unknown": _set(*TASKS, "make", "inputs", "parameters", "x", to={"runtimeValue": {"constant": 1.0}}),
    "wrong constant": _set(*TASKS, "make", "inputs", "parameters", "n", to={"runtimeValue": {"constant": 1.5}}),
    "component": _set(*TASKS, "make", "componentRef", "name", to="comp-none"),
    "executor": _drop("deploymentSpec", "executors", "exec-make"),
    "task name": lambda spec, _: spec["root"]["dag"]["tasks"].update(
        {"../up": spec["root"]["dag"]["tasks"].pop("gather")}
    ),
    "output name": _set(
        *("components", "comp-make", "outputDefinitions", "parameters", "../../x"), to={"parameterType": "STRING"}
    ),
    "placeholder": _set(
        "deploymentSpec", "executors", "exec-make", "container", "args", to=["{{$.inputs.secrets['x']}}"]
    ),
    "placeholder's port": _set(
        *("deploymentSpec", "executors", "exec-make", "container", "args"), to=["{{$.inputs.parameters['x']}}"]
    ),
    "open placeholder": _set("deploymentSpec", "executors", "exec-make", "container", "args", to=["{{$.inputs"]),
    "memory": _set(
        *("deploymentSpec", "executors", "exec-make", "container", "resources", "resourceMemoryLimit"), to="lots"
    ),
    "items": _set(*TASKS, "for-loop-2", "parameterIterator", "items", "raw", to='{"a": 1}'),
    "items of nobody": _set(*TASKS, "for-loop-2", "parameterIterator", "items", to={"inputParameter": "x"}),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_package_that_no_compiler_writes_is_refused(
    name: str, documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    spec, platform = copy.deepcopy(documents)
    TAMPERED[name](spec, platform)
    assert (spec, platform) != tuple(documents)
    with pytest.raises(ConfigError):
        read([spec, platform], tmp_path)


@pytest.mark.parametrize(
    "text", ["", "a: [", "- 1", "!!python/object/apply:os.getcwd []", "a: 1\n---\nb: 2\n---\nc: 3", "\x00", "root: 1"]
)
def test_what_is_no_package_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError):
        ir.load(tmp_path / "p.yaml")
    with pytest.raises(ConfigError):
        ir.load(tmp_path / "none.yaml")


@settings(max_examples=40, deadline=None)
@given(edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_tasks_come_after_what_they_need(edges: set[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    after: dict[str, set[str]] = {f"t{n}": {f"t{a}" for a, b in edges if b == n and a < b} for n in range(8)}
    spec = {
        "pipelineInfo": {"name": "p"},
        "schemaVersion": "2.1.0",
        "deploymentSpec": {"executors": {"e": {"container": {"image": "i"}}}},
        "components": {"c": {"executorLabel": "e"}},
        "root": {
            "dag": {"tasks": {n: {"componentRef": {"name": "c"}, "dependentTasks": sorted(after[n])} for n in after}}
        },
    }
    order = [node.name for node in read([spec], tmp_path_factory.mktemp("dag")).tasks]
    assert sorted(order) == sorted(after)
    assert all(order.index(before) < order.index(name) for name in after for before in after[name])
