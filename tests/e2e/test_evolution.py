"""One whole evolution: both clocks and both runner modes do the same work."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from instar import config as configs
from instar.artifact import Tasks
from instar.errors import LedgerError, LockedError
from instar.pipelines.evolution import evolve
from instar.pipelines.gate import GateConfig
from instar.pipelines.local import LocalRunner
from instar.status import status
from instar.workspace import create_workspace, locked, open_workspace
from support.micro import EVOLUTION, micro, micro_generated, open_and_run, pools


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The micro recipe under both clocks, run to the end without a fault."""
    import torch

    torch.set_num_threads(1)
    out = {}
    for clock in ("rounds", "fused"):
        out[clock] = tmp_path_factory.mktemp(clock)
        open_and_run(out[clock], micro(clock=clock))
    return out


def final_policy(directory: Path) -> str:
    made = [
        e.body["outputs"]["policy"]
        for e in open_workspace(directory).ledger.of("stage")
        if "policy" in e.body["outputs"]
    ]
    return str(made[-1])


def test_both_clocks_train_the_same_policy(unbroken: dict[str, Path]) -> None:
    assert final_policy(unbroken["rounds"]) == final_policy(unbroken["fused"])
    first = next(e for e in open_workspace(unbroken["rounds"]).ledger.of("stage") if e.body["stage"] == "dataset_prep")
    assert final_policy(unbroken["rounds"]) != first.body["outputs"]["policy"], "the policy did not change at all"


def test_rollback_returns_to_the_base_and_goes_on(tmp_path: Path) -> None:
    """A learning rate that ruins the policy: the gate rolls back to the base, whose optimiser starts afresh."""
    recipe = micro(clock="rounds", inner_steps=1, gate=GateConfig(rollback_margin=0.0))
    recipe = dataclasses.replace(
        recipe,
        update=dataclasses.replace(recipe.update, lr=0.5, warmup_steps=0),
        evaluate=dataclasses.replace(recipe.evaluate, tasks_per_arm=20),
        dataset_prep=dataclasses.replace(recipe.dataset_prep, pools=pools(val=20)),
    )
    outcome = open_and_run(tmp_path, recipe)
    ledger = open_workspace(tmp_path).ledger
    assert [e.body["decision"]["action"] for e in ledger.of("gate")] == ["continue", "rollback", "rollback"]
    base = next(e for e in ledger.of("stage") if e.body["stage"] == "dataset_prep").body["outputs"]["policy"]
    updates = [e for e in ledger.of("stage") if e.body["stage"] == "update"]
    assert [e.body["inputs"]["policy"] for e in updates] == [base, base]
    assert status(open_workspace(tmp_path))["policy"] == outcome.state.policy.digest == base
    assert "trainer" not in updates[1].body["inputs"]
    assert updates[1].body["outputs"]["policy"] != updates[0].body["outputs"]["policy"], (
        "a new step has new random numbers"
    )


def test_running_again_runs_nothing(unbroken: dict[str, Path]) -> None:
    before = open_workspace(unbroken["rounds"]).ledger.head
    open_and_run(unbroken["rounds"], micro(clock="rounds"))
    assert open_workspace(unbroken["rounds"]).ledger.head == before


@pytest.mark.slow  # every stage runs as a process in test_stage_conformance.py, and every task in test_chain.py
def test_subprocess_mode_writes_the_same_ledger(tmp_path: Path) -> None:
    recipe = micro(clock="fused", iterations=1)
    heads = []
    for mode in ("inprocess", "subprocess"):
        open_and_run(tmp_path / mode, recipe, mode=mode)
        heads.append(open_workspace(tmp_path / mode).ledger.head)
    assert heads[0] == heads[1]


@pytest.mark.parametrize("mode", ["mixed", pytest.param("alternate", marks=pytest.mark.slow)])
def test_both_clocks_make_and_try_the_same_generated_tasks(mode: str, tmp_path: Path) -> None:
    """Four inner steps in two iterations; in mode `alternate` the second and the fourth attempt generated tasks alone."""
    change = {"curriculum": {"generated": {"prompts": 4, "mode": mode}}}
    made = []
    for clock in ("rounds", "fused"):
        state = open_and_run(tmp_path / clock, configs.merge(micro_generated(clock=clock), change)).state
        assert state.generated is not None and state.curriculum is not None and state.trainer is not None
        rows = Tasks(open_workspace(tmp_path / clock).cas.get(state.generated.digest)).read()
        # weights that stay resident have a digest of their own, which the origin of a task records
        cache = [dataclasses.replace(row, features=re.sub(r"sha256:\w+", "", row.features)) for row in rows]
        made.append(([part.digest for part in (state.policy, state.trainer, state.curriculum)], cache))
    assert made[0] == made[1]
    steps = [
        e.body["metrics"] for e in open_workspace(tmp_path / "rounds").ledger.of("stage") if e.body["stage"] == "reward"
    ]
    assert [m["num_rollouts"] / 4 for m in steps] == ([12, 16, 16, 16] if mode == "mixed" else [12, 4, 12, 4])


def test_two_runs_on_one_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError, match="no other run"), locked(tmp_path):
        pass


def test_a_second_writer_of_the_ledger_is_refused(tmp_path: Path) -> None:
    recipe = micro(clock="rounds", iterations=0)
    first = create_workspace(tmp_path, EVOLUTION)
    second = create_workspace(tmp_path, EVOLUTION)
    first.ledger.append("open", {"recipe": {}}, {})
    with pytest.raises(LockedError, match="only writer"):
        evolve(LocalRunner(second), recipe)


def test_resume_refuses_changed_code(unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.pipelines import lifecycle

    monkeypatch.setattr(lifecycle, "code_version", lambda: "0.0.0+other")
    with pytest.raises(LedgerError, match="accept-code"):
        open_and_run(unbroken["rounds"], micro(clock="rounds"))
