"""Code of a user's in a chain of Kubeflow runs and in an Argo workflow: stored before the first pod, and the same ledger."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.seaweed import Seaweed

from instar import head
from instar.cli import cluster
from instar.cli.cluster import Server, Target
from instar.errors import ArtifactError, ConfigError
from instar.pipelines.chain.generations import tick_newest
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner
from instar.pipelines.pools import Images, load
from instar.store import open_store
from instar.workspace import Workspace, open_workspace
from support.fake_kfp import FakeKfp
from support.inline_argo import Argo
from support.inline_engine import Engine
from support.micro import EVOLUTION
from support.own_code import CODES, open_own, own_recipe, write_files

TARGET = Target(
    profile=dataclasses.replace(load("kind-dev"), mlflow=""),
    images=Images(digests={"instar-cpu": "sha256:" + "a" * 64}),
)
CHANGES: dict[str, Any] = {"clock": "rounds", "iterations": 1, "inner_steps": 1}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same evolution in one process."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("local")
    workspace, recipe = open_own(folder / "run", write_files(folder / "mine"), **CHANGES)
    evolve(LocalRunner(workspace, threads=1), recipe)
    return folder / "run"


def entries(workspace: Workspace) -> list[Any]:
    """Return what the ledger says, without its end."""
    return [(e.kind, e.body) for e in workspace.ledger.entries if e.kind != "close"]


@pytest.fixture
def kfp(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKfp]:
    server = FakeKfp().start()
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INSTAR_KFP_HOST", server.url)
    yield server
    server.stop()


def test_a_chain_of_runs_and_its_next_generation_use_what_submit_has_stored(
    local: Path, kfp: FakeKfp, tmp_path: Path
) -> None:
    engine, server, store = Engine(kfp, tmp_path), Server(host=kfp.url), f"s3://instar-test/{tmp_path.name}"
    with own_recipe(write_files(tmp_path / "mine"), **CHANGES) as (recipe, brought):
        cluster.submit(recipe, tmp_path / "handle", EVOLUTION, store, server, TARGET, brought)
    shutil.rmtree(tmp_path / "mine")
    assert len(engine.waiting) == 1
    pins = next(open_workspace(tmp_path / "handle").ledger.of("open")).body["brought"]
    assert all(open_workspace(tmp_path / "handle").cas.has(digest) for digest in pins.values())
    engine.drain()
    assert entries(open_workspace(tmp_path / "handle")) == entries(open_workspace(local))
    opened, api = open_store(store), server.open()
    action = tick_newest(opened, api, EVOLUTION, True, time.time() + 3600.0, secrets.token_hex(4))
    assert action.did == "submitted"
    engine.drain()
    following = head.read_head(opened, f"{EVOLUTION}-g0002")
    assert following is not None and following[0].status == "done"
    generation = Workspace(tmp_path / "generation", f"{EVOLUTION}-g0002", store)
    assert next(generation.ledger.of("open")).body["brought"] == pins


def compiled(folder: Path, store: Path) -> dict[str, Any]:
    """Write the workflow, as `instar compile --engine argo --store` does."""
    with own_recipe(write_files(folder / "mine"), **CHANGES) as (recipe, brought):
        stored = cluster.store_brought(recipe, brought, str(store))
        cluster.compile_recipe(recipe, "iterate", TARGET, folder / "argo.yaml", "argo", stored)
    shutil.rmtree(folder / "mine")
    workflow: dict[str, Any] = yaml.safe_load((folder / "argo.yaml").read_text())
    return workflow


def test_a_workflow_of_argo_opens_the_evolution_with_what_compile_has_stored(local: Path, tmp_path: Path) -> None:
    workflow = compiled(tmp_path, tmp_path / "store")
    assert str(tmp_path / "mine") not in (tmp_path / "argo.yaml").read_text()
    Argo(workflow, {"evolution": EVOLUTION}, tmp_path / "outputs").run("evolution", {})
    workspace = Workspace(tmp_path / "w", EVOLUTION, str(tmp_path / "store"))
    assert entries(workspace) == entries(open_workspace(local))
    assert workspace.ledger.closing is not None
    elsewhere = {"evolution": EVOLUTION, "store": str(tmp_path / "elsewhere")}
    with pytest.raises(ArtifactError, match="--store"):
        Argo(workflow, elsewhere, tmp_path / "more").run("evolution", {})


def test_a_workflow_without_a_store_is_refused_when_it_is_compiled(tmp_path: Path) -> None:
    with (
        own_recipe(write_files(tmp_path / "mine"), **CHANGES) as (recipe, _),
        pytest.raises(ConfigError, match="--store") as error,
    ):
        cluster.compile_recipe(recipe, "iterate", TARGET, tmp_path / "argo.yaml", "argo")
    assert "--reward" in error.value.expected and "--tasks" in error.value.expected
    assert not (tmp_path / "argo.yaml").exists()


def test_nodes_get_the_code_that_they_read(tmp_path: Path) -> None:
    """The package of a segment, as Kubeflow gets it: each code is an input of the stages that run it, and of no other."""
    with own_recipe(write_files(tmp_path / "mine"), **CHANGES) as (recipe, _):
        cluster.compile_recipe(recipe, "iterate", TARGET, tmp_path / "iterate.yaml", "kfp")
    spec = next(yaml.safe_load_all((tmp_path / "iterate.yaml").read_text()))
    inputs = {name: task.get("inputs", {}).get("artifacts", {}) for name, task in spec["root"]["dag"]["tasks"].items()}
    read = {name: {port for port in ports if port in CODES} for name, ports in inputs.items()}
    assert {name: codes for name, codes in read.items() if codes} == {
        "curriculum": {"curriculum_code"},
        "reward": {"reward_code"},
        "update": {"update_code"},
        "evaluate": {"reward_code"},
    }
    assert inputs["reward"]["reward_code"]["taskOutputArtifact"]["producerTask"] == "open"
