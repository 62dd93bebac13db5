"""A whole evolution as a chain of runs: compiled, submitted over HTTP, executed task by task, ledger as in one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.seaweed import Seaweed

from instar import cluster, head
from instar.cluster import Server, Target
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.store import open_store
from instar.workspace import open_workspace
from support.fake_kfp import FakeKfp
from support.inline_engine import Engine
from support.micro import EVOLUTION, micro, open_and_run

PROFILE = dataclasses.replace(load("kind-dev"), mlflow="")
TARGET = Target(profile=PROFILE, images=Images(digests={"instar-cpu": "sha256:" + "a" * 64}))


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    server = FakeKfp().start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, kfp: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INSTAR_KFP_HOST", kfp.url)
    yield
    torch.set_num_threads(before)


def sharded(**changes: object) -> Recipe:
    return micro(clock="rounds", rollout=dataclasses.replace(micro().rollout, shards=2), **changes)


def submit(recipe: Recipe, tmp_path: Path, kfp: FakeKfp, where: Target = TARGET) -> tuple[Path, str]:
    store = f"s3://instar-test/{tmp_path.name}"
    handle = tmp_path / "handle"
    cluster.submit(recipe, handle, EVOLUTION, store, Server(host=kfp.url), where)
    return handle, store


@pytest.mark.parametrize("kind", ["rounds", "fused", "unrolled"])
def test_a_chain_of_runs_writes_the_ledger_of_one_process(kind: str, kfp: FakeKfp, tmp_path: Path) -> None:
    recipe = micro(clock="fused", iterations=3) if kind == "unrolled" else sharded() if kind == "rounds" else micro()
    open_and_run(tmp_path / "local", recipe)
    engine = Engine(kfp, tmp_path)
    where = dataclasses.replace(TARGET, unroll=2) if kind == "unrolled" else TARGET
    handle, store = submit(recipe, tmp_path, kfp, where)
    engine.drain()
    found = head.read_head(open_store(store), EVOLUTION)
    assert found is not None and found[0].status == "done"
    runs = {"rounds": 4, "fused": 4, "unrolled": 4}[kind]
    assert [state for _, state in engine.done] == ["SUCCEEDED"] * runs
    local, chained = open_workspace(tmp_path / "local").ledger, open_workspace(handle).ledger
    stages = [(e.kind, e.body) for e in local.entries]
    assert [(e.kind, e.body) for e in chained.entries[: len(stages)]] == stages
    assert chained.entries[-1].kind == "close"
