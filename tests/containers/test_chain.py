"""A whole evolution with every task in its own container: real images, a real S3 store, MLflow; killed and resumed."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.seaweed import Seaweed

from instar.errors import UnavailableError
from instar.pipelines.containers.engine import RUN, connect
from instar.pipelines.containers.evolution import drive
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import close, open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace, create_workspace, open_workspace
from support.micro import EVOLUTION, micro
from support.mlflow_server import free_port, mlflow_server

pytestmark = pytest.mark.containers


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same evolution in one process: two iterations, rollouts in two shards, one task per stage."""
    import torch

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("local")
    workspace = create_workspace(path, EVOLUTION)
    open_evolution(workspace, recipe(), 0)
    close(workspace, evolve(LocalRunner(workspace, threads=1), recipe()))
    return path


def recipe() -> Recipe:
    return micro(clock="rounds", inner_steps=1, rollout=dataclasses.replace(micro().rollout, shards=2))


def start(tmp_path: Path) -> Workspace:
    workspace = create_workspace(tmp_path / "containers", EVOLUTION, f"s3://instar-test/{tmp_path.name}")
    open_evolution(workspace, recipe(), 0)
    return workspace


def lock(image: str) -> Images:
    return Images(digests={"instar-cpu": image})


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with mlflow_server(tmp_path / "mlflow", free_port()) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_every_stage_in_its_own_container(image: str, local: Path, mlflow: str, tmp_path: Path) -> None:
    workspace = start(tmp_path)
    head = drive(workspace, recipe(), load("local"), lock(image))
    assert (head.status, head.segment) == ("done", 4)
    made, expected = open_workspace(workspace.path).ledger, open_workspace(local).ledger
    assert [(e.kind, e.body) for e in made.entries] == [(e.kind, e.body) for e in expected.entries]
    assert made.head == expected.head
    runs = tracked(mlflow)
    assert sorted(r.data.tags["instar.iteration"] for r in runs if "instar.iteration" in r.data.tags) == ["0", "1", "2"]
    assert any(r.data.tags.get("instar.ledger_head") == made.head for r in runs)


def tracked(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("instar-sec")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_a_killed_container_costs_its_stage_and_nothing_else(image: str, local: Path, tmp_path: Path) -> None:
    workspace, engine = start(tmp_path), connect()
    killed: list[str] = []
    thread = threading.Thread(target=kill_first, args=(engine, f"{EVOLUTION}-000002", "update", killed), daemon=True)
    thread.start()
    with pytest.raises(UnavailableError, match="killed"):
        drive(workspace, recipe(), load("local"), lock(image), docker=engine)
    thread.join(60)
    assert killed
    before = len(open_workspace(workspace.path).ledger.entries)
    drive(open_workspace(workspace.path), recipe(), load("local"), lock(image), docker=engine)
    made = open_workspace(workspace.path).ledger
    assert len(made.entries) > before and made.head == open_workspace(local).ledger.head
    assert not engine.containers.list(all=True, filters={"label": RUN})


def kill_first(engine: Any, run: str, task: str, killed: list[str]) -> None:
    """Kill the container of a task of a run while its stage works."""
    from docker.errors import APIError

    stop = time.monotonic() + 300
    while time.monotonic() < stop and not killed:
        for container in engine.containers.list(filters={"label": f"{RUN}={run}"}):
            if task in container.labels.values():
                time.sleep(1.5)  # into the stage: it takes several seconds to import and to train
                try:
                    container.kill()
                    killed.append(container.id)
                except APIError:
                    return
        time.sleep(0.05)
