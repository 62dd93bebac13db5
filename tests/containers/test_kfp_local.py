"""One iteration's compiled package through `kfp.local`'s DockerRunner: an orchestrator that is not ours runs the same file.

Its status is never believed: it reports containers that died as successful. Head, ledger and store say what happened.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.seaweed import Seaweed

from instar import head as heads
from instar.head import Head
from instar.pipelines.containers import ir
from instar.pipelines.containers.engine import connect, open_folder
from instar.pipelines.containers.run import Options, run
from instar.pipelines.evolution import positions
from instar.pipelines.kubeflow import compile_graph
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import Kind, trace
from instar.workspace import Workspace, create_workspace, open_workspace
from support.micro import EVOLUTION, micro

pytestmark = [
    pytest.mark.containers,
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner:UserWarning"),
]
Go = Callable[..., Path]
TAG = "instar-cpu:kfp-local"
USER = f"{os.getuid() or 10001}:0"
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Give what every container gets, and set it here too."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    return {**seaweed.environment(), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def tagged(image: str) -> Iterator[str]:
    """Give a tag of the image. A digest that no registry has handed out is one that kfp.local tries to pull."""
    engine = connect()
    found = engine.images.get(image)
    found.tag(*TAG.split(":"))
    yield TAG
    found.reload()
    if len(found.tags) > 1:  # with its last tag the image would go too
        engine.images.remove(TAG)


@pytest.fixture
def kfp_local(tagged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Return a function that runs a package through kfp.local and returns the folder of its outputs."""
    from kfp import components, local
    from kfp.local.config import LocalExecutionConfig

    monkeypatch.setattr(LocalExecutionConfig, "instance", None)  # restored: while it is set, components run when called

    def go(package: Path, parameters: dict[str, Any], environment: dict[str, str], dead: str = "") -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        root, shared = (open_folder(folder / name, USER) for name in ("root", "shared"))
        runner = local.DockerRunner(
            user=USER,
            network_mode="host",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            tmpfs={"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=1g"},
            environment=environment,  # kfp.local does not read the platform spec, which refers to the secret
        )
        local.init(runner, pipeline_root=str(root), workspace_root=str(shared), raise_on_error=False)
        components.load_component_from_text(runnable(package, tagged, dead))(**parameters)
        return root

    return go


def package(recipe: Recipe, kind: Kind, image: str, folder: Path) -> Path:
    out = folder / f"{kind}.yaml"
    images = Images(digests={"instar-cpu": connect().images.get(image).id})
    compile_graph(trace(recipe, kind), load("local"), images, out)
    return out


def runnable(package: Path, tag: str, dead: str) -> str:
    """Return the package with a tag for the digest.

    In place of `dead` comes a container that ends well and makes nothing, as one does that died and is reported as
    successful; and no task is tried again, which would only make the test wait.
    """
    spec, platform = yaml.safe_load_all(package.read_text())
    for name, executor in spec["deploymentSpec"]["executors"].items():
        executor["container"]["image"] = tag
        if name == f"exec-{dead}":
            executor["container"] |= {"command": ["python", "-c", "pass"], "args": []}
    if dead:
        assert f"exec-{dead}" in spec["deploymentSpec"]["executors"]
        for task in spec["root"]["dag"]["tasks"].values():
            del task["retryPolicy"]
    return yaml.safe_dump_all([spec, platform])


def begun(recipe: Recipe, image: str, environment: dict[str, str], folder: Path) -> tuple[Workspace, dict[str, Any]]:
    """Run segment 0 with our own runner; return the workspace and the parameters of segment 1."""
    workspace = create_workspace(folder / "evolution", EVOLUTION, f"s3://instar-test/{folder.name}")
    open_evolution(workspace, recipe, 0)
    heads.create_head(workspace.store, Head(evolution=EVOLUTION, ledger=workspace.ledger.head))
    parameters = {"store": workspace.store_uri, "evolution": EVOLUTION, "attempt": 0, "iteration": 0, "step": 0}
    options = Options(environment=environment, secrets={n: environment[n] for n in SECRETS}, network="host")
    run(
        ir.load(package(recipe, "begin", image, folder)),
        {**parameters, "segment": 0},
        root=folder / "begin",
        name=folder.name,
        image_of=lambda reference: reference.rpartition("@")[2],
        options=options,
    )
    return workspace, {**parameters, "segment": 1}


def in_process(recipe: Recipe, folder: Path) -> Workspace:
    """Run the beginning and one iteration in this process."""
    import torch

    torch.set_num_threads(1)
    workspace = create_workspace(folder / "inprocess", EVOLUTION)
    open_evolution(workspace, recipe, 0)
    next(position for position in positions(LocalRunner(workspace, threads=1), recipe) if position.iteration == 1)
    return workspace


def head_of(workspace: Workspace) -> Head:
    found = heads.read_head(workspace.store, EVOLUTION)
    assert found is not None
    return found[0]


def moved(root: Path) -> set[str]:
    """Return the digests in the pointer files that kfp.local handed from task to task."""
    artifacts = [a for f in root.rglob("executor_output.json") for a in json.loads(f.read_text())["artifacts"].values()]
    entries = [
        entry for artifact in artifacts for entry in artifact["artifacts"] if "instar.digest" in entry["metadata"]
    ]
    for entry in entries:
        assert json.loads(Path(entry["uri"]).read_text())["digest"] == entry["metadata"]["instar.digest"]
    return {entry["metadata"]["instar.digest"] for entry in entries} - {""}


def check(workspace: Workspace, before: int, root: Path, expected: Workspace, stages: list[str]) -> None:
    """Compare what a run of segment 1 left with the same iteration in one process."""
    head, made = head_of(workspace), open_workspace(workspace.path)
    assert (head.segment, head.kind, head.iteration, head.status) == (2, "iterate", 1, "running")
    assert [(e.kind, e.body) for e in made.ledger.entries] == [(e.kind, e.body) for e in expected.ledger.entries]
    assert head.ledger == made.ledger.head == expected.ledger.head
    iteration = [e.body for e in made.ledger.entries[before:] if e.kind == "stage"]
    assert sorted(body["stage"] for body in iteration) == stages
    assert {d for body in iteration for d in body["outputs"].values()} <= moved(root)
    for found in moved(root):
        made.cas.verify(found)


def test_an_iteration_in_shards_is_what_this_process_makes(
    kfp_local: Go, tagged: str, environment: dict[str, str], tmp_path: Path
) -> None:
    recipe = micro(clock="rounds", inner_steps=1, rollout=dataclasses.replace(micro().rollout, shards=2))
    workspace, parameters = begun(recipe, tagged, environment, tmp_path)
    before = len(open_workspace(workspace.path).ledger.entries)
    root = kfp_local(package(recipe, "iterate", tagged, tmp_path), parameters, environment)
    stages = ["curriculum", "evaluate", "gather", "reward", "rollout", "rollout", "update"]
    check(workspace, before, root, in_process(recipe, tmp_path), stages)


def test_a_task_that_made_nothing_ends_the_segment_and_the_next_attempt_commits_it(
    kfp_local: Go, tagged: str, environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, parameters = begun(micro(), tagged, environment, tmp_path)
    before = len(open_workspace(workspace.path).ledger.entries)
    path = package(micro(), "iterate", tagged, tmp_path)
    kfp_local(path, parameters, environment, dead="evaluate")
    assert "a result of evaluate in iteration 1" in capsys.readouterr().out, "the last task has not run"
    assert (head_of(workspace).segment, head_of(workspace).iteration) == (1, 0)
    committed = open_workspace(workspace.path).ledger.entries[before:]
    assert not [e for e in committed if e.kind == "gate" or e.body["stage"] == "evaluate"]
    root = kfp_local(path, parameters, environment)
    check(workspace, before, root, in_process(micro(), tmp_path), ["evaluate", "fused"])
