"""Recorded results are computed again, and taken over by another directory. What they depend on decides which."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Scores
from instar.cli.replay import replay
from instar.errors import ConfigError, LedgerError
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.pipelines.reuse import REUSED, open_reused
from instar.workspace import Workspace, create_workspace, open_workspace
from support.micro import EVOLUTION, micro, open_and_run


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations of one step."""
    directory = tmp_path_factory.mktemp("recorded") / "a"
    open_and_run(directory, micro(inner_steps=1, threads=1, clock="rounds"))
    return directory


def run_again(directory: Path, recipe: Recipe, reused: Path) -> Workspace:
    workspace = create_workspace(directory, EVOLUTION)
    open_evolution(workspace, recipe, 0)
    evolve(LocalRunner(workspace, threads=1, reuse=open_reused(reused, workspace)), recipe)
    return workspace


def taken(workspace: Workspace) -> dict[str, list[bool]]:
    """Return, for every stage, which of its results are taken over."""
    out: dict[str, list[bool]] = {}
    for entry in workspace.ledger.of("stage"):
        out.setdefault(entry.body["stage"], []).append(REUSED in entry.time)
    return out


def test_an_equal_run_takes_over_everything_and_has_the_same_ledger(recorded: Path, tmp_path: Path) -> None:
    workspace, before = (
        run_again(tmp_path / "b", micro(inner_steps=1, threads=1, clock="rounds"), recorded),
        open_workspace(recorded),
    )
    assert all(all(flags) for flags in taken(workspace).values())
    assert workspace.ledger.head == before.ledger.head
    for one, two in zip(workspace.ledger.of("stage"), before.ledger.of("stage"), strict=True):
        assert one.time[REUSED] == two.digest
    for entry in workspace.ledger.of("stage"):
        for digest in entry.body["outputs"].values():
            workspace.cas.verify(digest)  # the bytes are in this store


def test_another_reward_runs_again_with_what_follows_from_it(recorded: Path, tmp_path: Path) -> None:
    recipe = micro(inner_steps=1, threads=1, clock="rounds")
    changed = dataclasses.replace(recipe, reward=dataclasses.replace(recipe.reward, format_reward=0.25))
    flags = taken(run_again(tmp_path / "b", changed, recorded))
    assert flags["dataset_prep"] == [True]
    assert flags["curriculum"][0] and flags["rollout"][0]  # the first step reads nothing that the reward made
    assert flags["evaluate"][:2] == [True, True]  # the first policy, on both splits
    assert not any([*flags["reward"], *flags["update"], flags["evaluate"][2]])


def test_what_the_other_store_has_lost_runs_again(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "a")
    entry = next(e for e in open_workspace(tmp_path / "a").ledger.of("stage") if e.body["stage"] == "reward")
    manifest = open_workspace(tmp_path / "a").cas.manifest(entry.body["outputs"]["scores"])
    blob = next(iter(manifest.files.values())).sha256
    (tmp_path / f"a/store/blobs/{blob[:2]}/{blob}").unlink()
    workspace = run_again(tmp_path / "b", micro(inner_steps=1, threads=1, clock="rounds"), tmp_path / "a")
    assert taken(workspace)["reward"].count(False) == 1
    assert workspace.ledger.head == open_workspace(recorded).ledger.head


def test_results_of_another_evolution_are_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="other random numbers"):
        open_reused(recorded, create_workspace(tmp_path / "b", "sec-micro-seed1"))
    with pytest.raises(ConfigError, match="the directory of the run itself"):
        open_reused(recorded, open_workspace(recorded))
    create_workspace(tmp_path / "empty", EVOLUTION)
    with pytest.raises(LedgerError, match="an empty ledger"):
        open_reused(tmp_path / "empty", create_workspace(tmp_path / "c", EVOLUTION))


def test_a_stage_runs_again_from_the_store_alone(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(recorded / "store", tmp_path / "store")
    listing = sorted(p.relative_to(tmp_path) for p in (tmp_path / "store").rglob("*"))
    assert replay(f"{tmp_path / 'store'}/evolutions/{EVOLUTION}", 2, "reward") == 0
    assert ", reward of iteration 2, step 1: 1 outputs" in capsys.readouterr().out
    assert sorted(p.relative_to(tmp_path) for p in (tmp_path / "store").rglob("*")) == listing  # nothing was written


def forged(recorded: Path, directory: Path) -> Path:
    """Copy a ledger up to its first reward, with another number in one of its rows and in one of its metrics."""
    source = open_workspace(recorded)
    shutil.copytree(recorded / "store", directory / "store")
    shutil.rmtree(directory / "store/evolutions")
    workspace = create_workspace(directory, EVOLUTION)
    for entry in source.ledger.entries:
        body: dict[str, Any] = dict(entry.body)
        if entry.kind == "stage" and body["stage"] == "reward":
            rows = Scores(source.cas.get(body["outputs"]["scores"])).read()
            scores = Scores(workspace.fresh_scratch("forged"))
            scores.write([*rows[:5], dataclasses.replace(rows[5], reward=0.125), *rows[6:]])
            body["outputs"] = {**body["outputs"], "scores": workspace.put(scores)}
            body["metrics"] = {**body["metrics"], "accuracy": 0.99}
            workspace.ledger.append("stage", body, entry.time)
            return directory
        workspace.ledger.append(entry.kind, body, entry.time)
    raise AssertionError


def test_a_result_that_differs_is_told_with_its_row_and_column(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(str(forged(recorded, tmp_path / "b")), 1, "reward") == 1
    printed = capsys.readouterr().out
    assert "different  entry 7, reward of iteration 1, step 0" in printed
    assert "scores: row 5, column reward: 0.125 in the ledger" in printed
    assert "metric accuracy: 0.99 in the ledger" in printed


def test_keys_of_another_version_are_told_as_such(recorded: Path, tmp_path: Path) -> None:
    """Another version of instar may have other settings, and with them other keys. Then nothing of the ledger is found."""
    source, workspace = open_workspace(recorded), create_workspace(tmp_path / "b", EVOLUTION)
    for entry in source.ledger.entries:
        body = {**entry.body, "key": "0" * 64, "code": "0.0.9+abc"} if entry.kind == "stage" else entry.body
        workspace.ledger.append(entry.kind, body, entry.time)
    with pytest.raises(LedgerError, match=r"code 0\.0\.9\+abc.*check out that version"):
        replay(str(tmp_path / "b"), 1, "reward")


def test_what_was_not_recorded_cannot_run_again(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'reward'"):
        replay(str(recorded), 1, "rewards")
    with pytest.raises(LedgerError, match="choose -k from 0 to 2"):
        replay(str(recorded), 3, "")
    open_and_run(tmp_path / "fused", micro(iterations=1, clock="fused", threads=1))
    with pytest.raises(ConfigError, match="--stage fused"):
        replay(str(tmp_path / "fused"), 1, "reward")


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["rounds", "fused"])
def test_every_stage_runs_again_and_is_equal(tmp_path: Path, clock: Any) -> None:
    open_and_run(tmp_path, micro(clock=clock, threads=1, iterations=1))
    assert [replay(str(tmp_path), iteration, "") for iteration in (0, 1)] == [0, 0]
