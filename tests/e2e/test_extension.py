"""More iterations in the same directory: what was done stays valid, and the rest is what an unbroken run would have done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from instar import config as configs
from instar.cli import commands
from instar.cli.commands import evolve_in
from instar.cli.show import show
from instar.errors import ConfigError, LockedError
from instar.head import Head, create_head
from instar.pipelines.evolution import evolve
from instar.pipelines.extension import extend
from instar.pipelines.lifecycle import open_evolution, stored_recipe
from instar.pipelines.local import LocalRunner
from instar.report.data import gather
from instar.timeline import elapsed
from instar.workspace import Workspace, create_workspace, open_workspace
from support.micro import micro


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations, extended to three."""
    directory = tmp_path_factory.mktemp("extended")
    for iterations in (2, 3):
        evolve_in(micro(iterations=iterations), directory, tracking="off")
    return directory


def work(workspace: Workspace) -> dict[str, dict[str, str]]:
    return {e.body["key"]: e.body["outputs"] for e in workspace.ledger.of("stage")}


def test_an_extension_does_what_an_unbroken_run_does(
    extended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = evolve_in(micro(iterations=3), tmp_path / "whole", tracking="off")
    whole, both = open_workspace(tmp_path / "whole"), open_workspace(extended)
    assert {key: outputs for key, outputs in work(both).items() if key in work(whole)} == work(whole)
    assert [e.body for e in both.ledger.of("gate")] == [e.body for e in whole.ledger.of("gate")]
    closing = [e.body for e in both.ledger.of("close")]
    assert [body["iterations"] for body in closing] == [2, 3]
    assert closing[-1] == whole.ledger.entries[-1].body
    assert outcome.champion.digest == closing[-1]["champion"]
    kinds = [e.kind for e in both.ledger.entries]
    assert kinds.index("extend") == kinds.index("close") + 1
    assert len(list(both.ledger.of("stage"))) - len(work(whole)) in (0, 1), "at most the first test is beside the rest"

    capsys.readouterr()
    show(extended, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["iteration"], told["iterations"], told["status"]) == (3, 3, "done")
    assert gather(both).iterations == (3, 3)
    assert stored_recipe(both) == micro(iterations=3)


def test_the_time_between_two_runs_belongs_to_no_iteration(extended: Path) -> None:
    """Without the instant of the extension, the pause and the test before it would count as work of iteration 3."""
    ledger = open_workspace(extended).ledger
    (extension,) = ledger.of("extend")
    third = elapsed(ledger.entries)[-1]
    assert third.iteration == 3
    assert third.elapsed_s == pytest.approx(third.at - extension.time["at"])


def test_the_same_command_again_and_resume_change_nothing(extended: Path) -> None:
    head = open_workspace(extended).ledger.head
    evolve_in(micro(iterations=3), extended, tracking="off")
    commands.resume(extended, "inprocess", "off", accept_code=False)
    assert open_workspace(extended).ledger.head == head


def test_fewer_iterations_than_were_begun_are_refused(extended: Path) -> None:
    head = open_workspace(extended).ledger.head
    with pytest.raises(ConfigError, match=r"at least 3 iterations.*found 2.*set iterations=3"):
        evolve_in(micro(iterations=2), extended, tracking="off")
    with pytest.raises(ConfigError, match=r"a change in inner_steps, iterations"):
        evolve_in(micro(iterations=9, inner_steps=1), extended, tracking="off")
    assert open_workspace(extended).ledger.head == head


def test_a_kill_between_the_extension_and_its_first_stage_costs_nothing(extended: Path, tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "killed", open_workspace(extended).evolution)
    open_evolution(workspace, micro(iterations=1), 0)
    evolve(LocalRunner(workspace, threads=1), micro(iterations=1))
    open_evolution(workspace, micro(iterations=2), 0)
    assert open_workspace(workspace.path).ledger.closing is None
    commands.resume(workspace.path, "inprocess", "off", accept_code=False)
    assert open_workspace(workspace.path).ledger.entries[-1].body["iterations"] == 2


def test_an_evolution_that_its_gate_ended_is_not_extended(tmp_path: Path) -> None:
    """The gate would stop it again at once."""
    recipe = micro(iterations=1)
    workspace = create_workspace(tmp_path, "stopped")
    open_evolution(workspace, recipe, 0)
    decision = {"action": "stop", "promote": False, "reason": "no gain in three iterations"}
    body = {"iteration": 1, "evaluation": f"sha256:{1:064x}", "baseline": "", "decision": decision}
    workspace.ledger.append("gate", body, {"at": 1.0})
    with pytest.raises(ConfigError, match=r"a stop after iteration 1: no gain.*--from"):
        open_evolution(workspace, dataclasses.replace(recipe, iterations=5), 0)


def test_a_chain_that_runs_is_not_extended(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path, "chain")
    open_evolution(workspace, micro(iterations=1), 0)
    create_head(workspace.store, Head(evolution="chain", segment=1, kind="iterate"))
    with pytest.raises(LockedError, match=r"found running, segment 1.*wait until it is done"):
        extend(workspace, 4)


def test_a_plan_that_is_shorter_than_the_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    base = micro(iterations=3)
    planned = configs.merge(base, {"curriculum": {"strategy": "ordered", "steps": 4}})
    commands.say_outlook(dataclasses.replace(planned, iterations=2))
    assert "curriculum" not in capsys.readouterr().out
    commands.say_outlook(planned)
    assert "the plan of curriculum 'ordered' has 4 steps: the last 2 of 6 stay" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"update.total_steps >= "):
        configs.merge(base, {"update": {"schedule": "linear", "total_steps": 4, "warmup_steps": 0}})
