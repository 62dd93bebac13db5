"""Compiled pipelines against golden files, and what must hold of every compiled pipeline.

A deliberate change: `INSTAR_UPDATE_GOLDENS=1 pytest tests/golden` writes them again; read the diff.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from instar.errors import ConfigError, ContractError
from instar.pipelines.argo import write_workflow
from instar.pipelines.chain.gang.pod import PodSettings, Work, template
from instar.pipelines.chain.pointers import pointers
from instar.pipelines.containers import ir
from instar.pipelines.kubeflow import compile_graph, compile_tick
from instar.pipelines.kubeflow_components import component
from instar.pipelines.placement import environment
from instar.pipelines.pools import DEFAULT, QUEUE_S, TASKS, Images, Profile, Scratch, load, load_images
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.pipelines.trace import MAX_FAN_OUT, trace

HERE = Path(__file__).parent
IMAGES = Images(digests={"instar-cpu": "sha256:" + "a" * 64, "instar-cuda": "sha256:" + "b" * 64})


def sharded(shards: int) -> Recipe:
    tiny = build("sec", "tiny")
    return dataclasses.replace(
        tiny, clock="rounds", inner_steps=1, rollout=dataclasses.replace(tiny.rollout, shards=shards)
    )


CASES = {
    "begin": lambda out: compile_graph(trace(build("sec", "tiny"), "begin"), load("kind-dev"), IMAGES, out),
    "iterate": lambda out: compile_graph(trace(build("sec", "tiny"), "iterate"), load("kind-dev"), IMAGES, out),
    "finish": lambda out: compile_graph(trace(build("sec", "tiny"), "finish"), load("kind-dev"), IMAGES, out),
    "unrolled": lambda out: compile_graph(trace(build("sec", "single"), "iterate", 2), load("gpu-prod"), IMAGES, out),
    "continuous": lambda out: compile_graph(
        trace(build("decision_mamba", "tiny"), "iterate"), load("kind-dev"), IMAGES, out
    ),
    "shards": lambda out: compile_graph(trace(sharded(3), "iterate"), load("gpu-prod"), IMAGES, out),
    "tick": lambda out: compile_tick(load("gpu-prod"), IMAGES, out),
    "argo": lambda out: write_workflow(build("sec", "single"), load("gpu-prod"), IMAGES, out),
}
KFP = sorted(set(CASES) - {"argo"})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    for name, write in CASES.items():
        write(folder / f"{name}.yaml")
    return {name: folder / f"{name}.yaml" for name in CASES}


def documents(path: Path) -> list[Any]:
    """Return the documents without what names kfp's version."""
    found = list(yaml.safe_load_all(path.read_text()))
    for document in found:
        document.pop("sdkVersion", None)
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden(name: str, compiled: dict[str, Path]) -> None:
    golden = HERE / f"{name}.yaml"
    text = yaml.safe_dump_all(documents(compiled[name]), sort_keys=True, width=132)
    if os.environ.get("INSTAR_UPDATE_GOLDENS"):
        golden.write_text(text)
    assert golden.read_text() == text, f"{golden} differs; see the docstring of this file"


# `unrolled` has every kind of task twice.
TWICE = [name if name in ("unrolled", "tick") else pytest.param(name, marks=pytest.mark.slow) for name in KFP]


@pytest.mark.parametrize("name", TWICE)
def test_compiling_twice_gives_the_same_bytes(name: str, compiled: dict[str, Path], tmp_path: Path) -> None:
    CASES[name](tmp_path / f"{name}.yaml")
    assert (tmp_path / f"{name}.yaml").read_bytes() == compiled[name].read_bytes()


@pytest.mark.parametrize("name", KFP)
def test_strict_parse(name: str, compiled: dict[str, Path]) -> None:
    program = ir.load(compiled[name])
    assert program.tasks


@pytest.mark.parametrize("name", KFP)
def test_every_image_has_a_digest_and_no_secret_is_written(name: str, compiled: dict[str, Path]) -> None:
    spec, platform = documents(compiled[name])
    executors = spec["deploymentSpec"]["executors"]
    assert all(e["container"]["image"].partition("@sha256:")[2] for e in executors.values())
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(placed) == set(executors)
    for label, settings in placed.items():
        assert settings["securityContext"]["runAsNonRoot"] is True, label
        assert settings["secretAsEnv"][0]["secretName"] == "instar-store"
        assert int(settings["activeDeadlineSeconds"]) > 0
        gpu = executors[label]["container"]["resources"].get("accelerator")
        tolerates = any(t["key"] == "nvidia.com/gpu" for t in settings.get("tolerations", []))
        shm = any(m["mountPath"] == "/dev/shm" and m["medium"] == "Memory" for m in settings.get("emptyDirMounts", []))
        assert bool(gpu) == tolerates == shm, label
    assert "AWS_SECRET_ACCESS_KEY=" not in compiled[name].read_text()


@pytest.mark.parametrize("name", KFP)
def test_only_data_and_the_base_policy_are_cached(name: str, compiled: dict[str, Path]) -> None:
    spec = documents(compiled[name])[0]
    cached = {
        label
        for dag in (spec["root"], *spec["components"].values())
        for label, task in dag.get("dag", {}).get("tasks", {}).items()
        if task.get("cachingOptions", {}).get("enableCache")
    }
    # a loop is a sub-graph and has no executor of its own to skip
    cached -= {label for label in cached if label.startswith("for-loop")}
    assert cached == ({"dataset-prep", "evaluate", "evaluate-2"} if name == "begin" else set())


@pytest.mark.parametrize("name", KFP)
def test_configurations_cross_as_one_short_json_string(name: str, compiled: dict[str, Path]) -> None:
    spec = documents(compiled[name])[0]
    texts = [
        task["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
        for dag in (spec["root"], *spec["components"].values())
        for task in dag.get("dag", {}).get("tasks", {}).values()
        if "config" in task.get("inputs", {}).get("parameters", {})
    ]
    assert all(isinstance(json.loads(text), dict) and len(text) < 4096 for text in texts)
    assert bool(texts) == (name != "tick")


def test_wrong_wiring_does_not_compile() -> None:
    from kfp import dsl
    from kfp.dsl.types.type_utils import InconsistentTypeException

    from instar.components.catalog import CURRICULUM, DATASET_PREP, ROLLOUT

    given = {"store": "", "evolution": "", "iteration": 0, "plus_iteration": 0, "step": 0, "plus_step": 0}
    given |= {"config": "{}", "shard": 0, "shards": 1}

    def wire(policy: str) -> None:
        data = component(DATASET_PREP, "i")(**given).outputs
        batch = component(CURRICULUM, "i")(tasks=data["tasks"], **given).outputs["out_batch"]
        component(ROLLOUT, "i")(policy=data[policy], tasks=data["tasks"], batch=batch, **given)

    dsl.pipeline(name="right")(lambda: wire("policy"))
    with pytest.raises(InconsistentTypeException, match="policy"):
        dsl.pipeline(name="wrong")(lambda: wire("tasks"))


def test_wrong_wiring_is_refused_by_the_trace() -> None:
    from instar.artifact import Batch
    from instar.components.catalog import ROLLOUT
    from instar.pipelines.trace import _Tracer

    recipe = build("sec", "tiny")
    batch = Batch(None, "@curriculum/batch")
    with pytest.raises(ContractError, match=r"rollout\.policy"):
        _Tracer(1, pointers(recipe)).call(
            ROLLOUT, recipe.rollout, iteration=1, step=0, policy=batch, tasks=batch, batch=batch
        )


def test_more_shards_than_pods_run_as_one_gang(tmp_path: Path) -> None:
    compile_graph(trace(sharded(MAX_FAN_OUT + 1), "iterate"), load("gpu-prod"), IMAGES, tmp_path / "gang.yaml")
    tasks = {task.name for task in ir.load(tmp_path / "gang.yaml").tasks}
    assert "gang" in tasks and "gather" not in tasks


def test_a_storage_class_becomes_an_ephemeral_volume(tmp_path: Path) -> None:
    profile = load("kind-dev")
    scratch = Scratch(size="9Gi", class_="local-nvme")
    pools = {name: dataclasses.replace(pool, scratch=scratch) for name, pool in profile.pools.items()}
    profile = dataclasses.replace(profile, pools=pools)
    compile_graph(trace(build("sec", "tiny"), "finish"), profile, IMAGES, tmp_path / "kfp.yaml")
    placed = documents(tmp_path / "kfp.yaml")[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in placed.values():
        (volume,) = executor["genericEphemeralVolume"]
        assert (volume["mountPath"], volume["size"], volume["storageClassName"]) == ("/tmp", "9Gi", "local-nvme")
    write_workflow(build("sec", "tiny"), profile, IMAGES, tmp_path / "argo.yaml")
    templates = yaml.safe_load((tmp_path / "argo.yaml").read_text())["spec"]["templates"]
    volume = next(t["volumes"][0] for t in templates if t["name"] == "finish-open")
    assert volume["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "local-nvme"
    manifest = template(Work(stage="rollout", arguments=(), shards=2), settings(profile))
    assert any("ephemeral" in v for v in manifest["spec"]["volumes"])


def settings(profile: Profile) -> PodSettings:
    image = IMAGES.reference("instar-cpu", "")
    return PodSettings(image=image, pool=profile.pool("rollout"), secret="s", endpoint="e", service_account="a")


@pytest.mark.parametrize("mark", ["{{", "$(", "$$"])
def test_a_configuration_that_a_cluster_would_change_is_refused(mark: str, tmp_path: Path) -> None:
    tiny = build("sec", "tiny")
    graph = trace(tiny, "iterate")
    nodes = tuple(dataclasses.replace(t, config={"text": f"a{mark}b"}) if t.stage else t for t in graph.nodes)
    with pytest.raises(ConfigError, match="clusters replace"):
        compile_graph(dataclasses.replace(graph, nodes=nodes), load("kind-dev"), IMAGES, tmp_path / "x.yaml")


def test_a_misspelt_task_of_a_profile_is_named(tmp_path: Path) -> None:
    (tmp_path / "pools.toml").write_text(DEFAULT.read_text().replace('rollout = "gpu"', 'rolout = "gpu"'))
    with pytest.raises(ConfigError, match="rollout"):
        load("kind-dev", tmp_path / "pools.toml")


@pytest.mark.parametrize("profile", ["kind-dev", "gpu-prod", "local"])
def test_the_supervisor_acts_before_the_deadline_of_its_pod(profile: str) -> None:
    found = load(profile)
    for task in sorted(TASKS):
        inside = int(environment(task, found, 1)["INSTAR_STAGE_S"])
        assert 0 < inside <= found.timeout_s(task) - 60
    rollout = found.pool("rollout")
    assert found.timeout_s("gang") > QUEUE_S + rollout.timeout_s


def test_a_graph_that_kubernetes_cannot_hold_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(sharded(1), inner_steps=13)
    with pytest.raises(ConfigError, match="at most 50 nodes"):
        compile_graph(trace(recipe, "iterate"), load("kind-dev"), IMAGES, tmp_path / "x.yaml")
    assert len(trace(dataclasses.replace(recipe, inner_steps=11), "iterate").nodes) == 47


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{}", "instar-cpu"),
        ('{"instar-cpu": {"digest": "latest"}}', "sha256"),
        ("[1]", "digest"),
        ("{", "digest"),
    ],
)
def test_an_image_without_a_digest_is_refused(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "images.lock").write_text(text)
    with pytest.raises(ConfigError, match=match):
        images = load_images(tmp_path / "images.lock")
        compile_graph(trace(build("sec", "tiny"), "iterate"), load("kind-dev"), images, tmp_path / "x.yaml")


def test_a_gpu_pool_without_its_toleration_is_refused(tmp_path: Path) -> None:
    text = DEFAULT.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("tolerations")]
    (tmp_path / "pools.toml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="toleration"):
        load("gpu-prod", tmp_path / "pools.toml")


@pytest.mark.parametrize("spoil", ["folder", "latin-1"])
def test_an_image_lock_that_cannot_be_read_is_named(spoil: str, tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    if spoil == "folder":
        path.mkdir()
    else:
        path.write_bytes(b'{"\xe9": {}}')
    with pytest.raises(ConfigError) as caught:
        load_images(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ('cpu = "1"', 'cpu = "one"', "cpu"),
        ('cpu = "1"', 'cpu = "-1"', "cpu"),
        ('cpu = "1"', 'cpu = "0"', "cpu"),
        ('memory = "4Gi"', 'memory = "4 GB"', "memory"),
        ('memory = "4Gi"', 'memory = ""', "memory"),
        ('memory = "4Gi"', 'memory = "0Gi"', "memory"),
        ('shm = "1Gi"', 'shm = "1GiB"', "shm"),
        ('size = "8Gi"', 'size = "big"', "scratch.size"),
        ("timeout_s = 3600", "timeout_s = 60", "timeout_s"),
        ("timeout_s = 3600", "timeout_s = -1", "timeout_s"),
        ('store_secret = "instar-store"', 'store_secret = ""', "store_secret"),
        ('service_account = "instar-stage"', 'service_account = " "', "service_account"),
        ('store_endpoint = "http://seaweedfs.instar-system:8333"', 'store_endpoint = ""', "store_endpoint"),
        ('registry = ""', 'registry = "Registry.internal/x"', "registry"),
        ('registry = ""', 'registry = "https://registry.internal"', "registry"),
        ('registry = ""', 'registry = "a b"', "registry"),
    ],
)
def test_a_profile_that_no_cluster_would_accept_is_refused(before: str, after: str, key: str, tmp_path: Path) -> None:
    text = DEFAULT.read_text()
    assert before in text
    (tmp_path / "pools.toml").write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load("kind-dev", tmp_path / "pools.toml")
    assert caught.value.where == f"pools: {key}"


@pytest.mark.parametrize("registry", ["", "registry.internal/instar", "localhost:5000", "a-b.c:443/x/y__z/"])
def test_registries_that_are_valid(registry: str) -> None:
    assert dataclasses.replace(load("kind-dev"), registry=registry).registry == registry


@pytest.mark.parametrize(("cpu", "memory"), [("500m", "512Mi"), ("0.5", "1000000000"), ("4", "2Ti"), ("10", "16G")])
def test_quantities_that_are_valid_compile(cpu: str, memory: str, tmp_path: Path) -> None:
    profile = load("kind-dev")
    pools = {name: dataclasses.replace(pool, cpu=cpu, memory=memory) for name, pool in profile.pools.items()}
    profile = dataclasses.replace(profile, pools=pools)
    compile_graph(trace(build("sec", "tiny"), "finish"), profile, IMAGES, tmp_path / "kfp.yaml")
