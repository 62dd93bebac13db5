"""A whole evolution as a chain of runs: compiled, submitted over HTTP, executed task by task, ledger as in one process."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.seaweed import Seaweed

from instar import head
from instar.cli import cluster, commands
from instar.cli.cluster import Server, Target
from instar.errors import ConfigError, LedgerError, LockedError
from instar.pipelines.chain.generations import tick_newest
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.store import open_store
from instar.workspace import open_workspace
from support.fake_kfp import FakeKfp
from support.inline_engine import Engine
from support.micro import EVOLUTION, micro, open_and_run
from support.micro_continuous import micro_continuous

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


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile what is equal once: that takes longer than a run, and each submit asks for four packages."""
    compile_recipe, folder = cluster.compile_recipe, tmp_path_factory.mktemp("compiled")

    def compile_once(recipe: Recipe, kind: str, where: Target, out: Path, engine: str) -> None:
        key = repr((recipe if kind != "tick" else None, kind, where, engine))
        package = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.yaml"
        if not package.exists():
            compile_recipe(recipe, kind, where, package, engine)
        shutil.copyfile(package, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "compile_recipe", compile_once)
        yield


RECIPES: dict[str, Recipe] = {
    "fused": micro(),
    "rounds": micro(clock="rounds", inner_steps=1, rollout=dataclasses.replace(micro().rollout, shards=2)),
    "unrolled": micro(iterations=3),
    "continuous": micro_continuous(rollout=dataclasses.replace(micro_continuous().rollout, shards=2)),
}


def submit(recipe: Recipe, tmp_path: Path, kfp: FakeKfp, where: Target = TARGET) -> tuple[Path, str]:
    store = f"s3://instar-test/{tmp_path.name}"
    handle = tmp_path / "handle"
    cluster.submit(recipe, handle, f"{recipe.name}-micro-seed0", store, Server(host=kfp.url), where)
    return handle, store


def tick(store: str, kfp: FakeKfp, restart: bool = False) -> str:
    """Run the task of the recurring run, as its pod does, long after the last claim."""
    opened, api = open_store(store), Server(host=kfp.url).open()
    return tick_newest(opened, api, EVOLUTION, restart, time.time() + 3600.0, secrets.token_hex(4)).did


def entries(path: Path) -> list[Any]:
    return [(e.kind, e.body) for e in open_workspace(path).ledger.entries]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """Return the entries of the same evolution in one process."""
    import torch

    torch.set_num_threads(1)

    @cache
    def run(kind: str) -> list[Any]:
        path = tmp_path_factory.mktemp(kind)
        open_and_run(path, RECIPES[kind])
        return entries(path)

    return run


# Below, `rounds` is killed everywhere, and `fused` is stopped and resumed. The stages of `continuous` run from KFP's executor
# input in test_stage_conformance.py.
NIGHTLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("continuous", "rounds")]


@pytest.mark.parametrize("kind", ["unrolled", *NIGHTLY])
def test_a_chain_of_runs_writes_the_ledger_of_one_process(
    kind: str, local: Callable[[str], list[Any]], kfp: FakeKfp, tmp_path: Path
) -> None:
    engine = Engine(kfp, tmp_path)
    where = dataclasses.replace(TARGET, unroll=2) if kind == "unrolled" else TARGET
    handle, store = submit(RECIPES[kind], tmp_path, kfp, where)
    engine.drain()
    found = head.read_head(open_store(store), f"{RECIPES[kind].name}-micro-seed0")
    assert found is not None and found[0].status == "done"
    assert [state for _, state in engine.done] == ["SUCCEEDED"] * 4
    chained = entries(handle)
    assert chained[:-1] == local(kind) and chained[-1][0] == "close"


@pytest.mark.slow  # tests/e2e/test_extension.py extends a run in one process
def test_a_chain_that_is_done_goes_on_with_more_iterations(
    local: Callable[[str], list[Any]], kfp: FakeKfp, tmp_path: Path
) -> None:
    """The same command with more iterations. A process that dies before the head moves leaves nothing that another cannot mend."""
    engine = Engine(kfp, tmp_path)
    handle, store = submit(micro(iterations=1), tmp_path, kfp)
    with pytest.raises(LockedError, match="wait until it is done"):
        submit(micro(), tmp_path, kfp)
    engine.drain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "reopen", lambda *facts: exit(9))
        with pytest.raises(SystemExit):
            submit(micro(), tmp_path, kfp)
    submit(micro(), tmp_path, kfp)
    engine.drain()
    versioned = head.read_head(open_store(store), EVOLUTION)
    assert versioned is not None
    assert (versioned[0].status, versioned[0].iteration, versioned[0].segment) == ("done", 2, 5)
    whole, extended = local("fused"), entries(handle)
    results = [{body["key"]: body["outputs"] for kind, body in entry if kind == "stage"} for entry in (whole, extended)]
    assert results[0].items() <= results[1].items()
    assert [e for e in whole if e[0] == "gate"] == [e for e in extended if e[0] == "gate"]
    assert [kind for kind, _ in extended if kind in ("extend", "close")] == ["close", "extend", "close"]
    assert (extended[-1][0], extended[-1][1]["iterations"]) == ("close", 2)


def test_runs_that_die_anywhere_are_repaired_without_computing_twice(
    local: Callable[[str], list[Any]], kfp: FakeKfp, tmp_path: Path
) -> None:
    engine = Engine(kfp, tmp_path)
    engine.kill_before = ["dataset-prep", "advance", "open", "rollout.1", "gather", "update", "evaluate", "advance"]
    handle, store = submit(RECIPES["rounds"], tmp_path, kfp)
    repaired = 0
    for _ in range(30):
        engine.drain()
        if not engine.kill_before and head.read_head(open_store(store), EVOLUTION)[0].status == "done":  # type: ignore[index]
            break
        did = tick(store, kfp)
        assert did in ("submitted", "failed"), did
        if did == "failed":  # three attempts at one segment: a person looks, and resumes
            cluster.resume(handle)
        repaired += 1
    assert repaired == 8
    assert entries(handle)[:-1] == local("rounds")
    recorded = [e for e in local("rounds") if e[0] == "stage"]
    assert len(open_store(store).list(f"evolutions/{EVOLUTION}/records/")) == len(recorded)


@pytest.mark.slow  # a run without the claim is refused in planted/test_chain_faults.py
def test_a_run_that_was_created_twice_does_no_work(kfp: FakeKfp, tmp_path: Path) -> None:
    engine = Engine(kfp, tmp_path)
    _, store = submit(RECIPES["fused"], tmp_path, kfp)
    twin = kfp.work("create_run", (), {}, dict(engine.waiting[0]))
    engine.step()
    assert engine.done == [(engine.done[0][0], "SUCCEEDED")] and len(engine.waiting) == 2
    assert engine.waiting[0]["run_id"] == twin["run_id"]
    with pytest.raises(LockedError, match="segment 0"):
        engine.step()
    engine.drain()
    assert head.read_head(open_store(store), EVOLUTION)[0].status == "done"  # type: ignore[index]


def test_a_person_stops_and_resumes(local: Callable[[str], list[Any]], kfp: FakeKfp, tmp_path: Path) -> None:
    engine = Engine(kfp, tmp_path)
    handle, store = submit(RECIPES["fused"], tmp_path, kfp)
    engine.step()
    waiting = engine.waiting.pop()
    kfp.cancel(waiting["run_id"])  # Terminate in the UI
    assert tick(store, kfp) == "stopped"
    assert tick(store, kfp) == "nothing" and not engine.waiting
    assert cluster.status(handle)["status"] == "stopped"
    assert cluster.resume(handle).did == "submitted"
    engine.drain()
    assert entries(handle)[:-1] == local("fused")


def test_submitting_again_changes_nothing(kfp: FakeKfp, tmp_path: Path) -> None:
    engine = Engine(kfp, tmp_path)
    submit(RECIPES["fused"], tmp_path, kfp)
    submit(RECIPES["fused"], tmp_path, kfp)
    assert len(engine.waiting) == 1
    with pytest.raises(LockedError, match="an evolution that is done"):
        submit(dataclasses.replace(RECIPES["fused"], iterations=3), tmp_path, kfp)
    store, server = f"s3://instar-test/{tmp_path.name}", Server(host=kfp.url)
    with pytest.raises(ConfigError, match="the other seed"):
        cluster.submit(RECIPES["fused"], tmp_path / "handle", EVOLUTION, store, server, TARGET, seed=7)
    with pytest.raises(ConfigError, match="unroll"):
        submit(RECIPES["fused"], tmp_path, kfp, dataclasses.replace(TARGET, unroll=2))
    with pytest.raises(ConfigError, match="of this handle"):
        cluster.submit(RECIPES["fused"], tmp_path / "handle", EVOLUTION, store, Server(host="http://other"), TARGET)
    (tmp_path / "handle" / "cluster.json").write_text('{"host": 1')
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        submit(RECIPES["fused"], tmp_path, kfp)


def test_a_refused_first_run_is_made_by_the_next_submit(kfp: FakeKfp, tmp_path: Path) -> None:
    engine = Engine(kfp, tmp_path)
    kfp.fault("create_run", "403")
    with pytest.raises(ConfigError):
        submit(RECIPES["fused"], tmp_path, kfp)
    assert not engine.waiting
    submit(RECIPES["fused"], tmp_path, kfp)
    assert len(engine.waiting) == 1


def test_other_code_is_refused_until_a_person_accepts_it(
    kfp: FakeKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(kfp, tmp_path)
    handle, _ = submit(RECIPES["fused"], tmp_path, kfp)
    engine.step()
    monkeypatch.setattr("instar.pipelines.lifecycle.code_version", lambda: "0.0.0+other")
    with pytest.raises(LedgerError, match="accept-code"):
        engine.step()
    commands.resume(handle, "inprocess", None, accept_code=True)
    assert [e.body["code"] for e in open_workspace(handle).ledger.of("accept_code")] == ["0.0.0+other"]
    tick(open_workspace(handle).store_uri, kfp)
    engine.drain()
    assert cluster.status(handle)["status"] == "done"


@pytest.mark.slow  # tests/planted/test_chain_faults.py has every step of a generation
def test_a_schedule_retrains_when_the_evolution_is_done(kfp: FakeKfp, tmp_path: Path) -> None:
    engine = Engine(kfp, tmp_path)
    recipe = dataclasses.replace(RECIPES["fused"], iterations=1)
    _, store = submit(recipe, tmp_path, kfp)
    made, kept = (cluster.schedule(store, EVOLUTION, Server(host=kfp.url), "0 0 3 * * *") for _ in range(2))
    assert all("created" in line for line in made) and all("kept" in line for line in kept)
    assert len(kfp.schedules) == 2
    assert cluster.schedule(store, EVOLUTION, Server(host=kfp.url), "0 0 4 * * *")[1].endswith("created, 1 deleted")
    for found in kfp.schedules.values():
        found["status"] = "DISABLED"
    changed = cluster.schedule(store, EVOLUTION, Server(host=kfp.url), "0 0 5 * * *")
    assert all(line.endswith("disabled by a person") for line in changed)
    assert {s["status"] for s in kfp.schedules.values()} == {"DISABLED"}
    assert all(s["no_catchup"] and s["max_concurrency"] == "1" for s in kfp.schedules.values())
    assert tick(store, kfp, restart=True) == "nothing"  # it runs: one generation at a time
    engine.drain()
    assert tick(store, kfp) == "nothing"
    assert tick(store, kfp, restart=True) == "submitted"
    engine.drain()
    found = head.read_head(open_store(store), f"{EVOLUTION}-g0002")
    assert found is not None and found[0].status == "done"
    handle, name = tmp_path / "second", f"{EVOLUTION}-g0002"
    assert cluster.submit(recipe, handle, name, store, Server(host=kfp.url), TARGET).did == "nothing"
    assert cluster.status(handle)["status"] == "done" and not engine.waiting


def test_a_store_on_this_machine_is_refused(kfp: FakeKfp, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3://"):
        cluster.submit(RECIPES["fused"], tmp_path, EVOLUTION, str(tmp_path), Server(host=kfp.url), TARGET)


def test_only_a_schedule_begins_a_generation(kfp: FakeKfp, tmp_path: Path) -> None:
    name, store = f"{EVOLUTION}-g0002", f"s3://instar-test/{tmp_path.name}"
    with pytest.raises(ConfigError, match="schedule"):
        cluster.submit(RECIPES["fused"], tmp_path / "a", name, store, Server(host=kfp.url), TARGET)
    assert not kfp.runs


def test_a_server_that_fails_loses_nothing(kfp: FakeKfp, tmp_path: Path) -> None:
    kfp.fault("create_run", "503")
    engine = Engine(kfp, tmp_path)
    _, store = submit(RECIPES["fused"], tmp_path, kfp)
    assert len(engine.waiting) == 1  # looked, found none, asked again
    kfp.fault("create_run", "drop")
    engine.step()
    assert len(engine.waiting) == 1  # the answer was lost, the run was found
    assert head.read_head(open_store(store), EVOLUTION)[0].segment == 1  # type: ignore[index]
