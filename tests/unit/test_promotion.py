"""Promotion moves the registry's alias for a policy that passed the gate of a finished evolution, and for nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from instar import tracking_server
from instar.cli import commands
from instar.errors import LedgerError
from instar.status import status
from instar.tracking import Tracker
from instar.workspace import Workspace
from support.written import ARMS, TASKS, Writer, evaluate, policy, task, write_evolution

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'instar[tracking]'")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'instar[tracking]'")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds of migrations."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking_server._client(f"sqlite:///{path}").search_experiments()
    return path


def refused(workspace: Workspace, template: Path, match: str) -> None:
    """Promote by command; expect an error, no alias and no entry."""
    shutil.copy(template, workspace.path / "mlflow.db")
    with pytest.raises(LedgerError, match=match):
        commands.promote(workspace.path, None)
    client = tracking_server._client(f"sqlite:///{workspace.path}/mlflow.db")
    assert not [m for m in client.search_registered_models() if "champion" in m.aliases]
    assert not list(Workspace(workspace.path, workspace.evolution, workspace.store_uri).ledger.of("promote"))


def test_an_evolution_that_never_beat_its_base_has_nothing_to_promote(tmp_path: Path, template: Path) -> None:
    refused(write_evolution(tmp_path / "e", iterations=0), template, "passed gates, none of them of this policy")


def test_an_unfinished_evolution_is_refused_whatever_its_gate_said(tmp_path: Path, template: Path) -> None:
    workspace = write_evolution(tmp_path / "e", closed=False)
    assert status(workspace)["champion"], "the gate has passed policies"
    refused(workspace, template, "a finished evolution")


def test_an_empty_evolution_is_refused(tmp_path: Path, template: Path) -> None:
    refused(Writer(tmp_path / "e", "rounds").workspace, template, "a finished evolution")


def test_the_base_is_refused_also_when_a_later_gate_met_it_again(tmp_path: Path, template: Path) -> None:
    w = Writer(tmp_path / "e", "rounds")
    rows = [task(arm, split, i) for arm in ARMS for split in ("val", "id") for i in range(TASKS)]
    base = policy(w, 0)
    champion = ""
    for k in (0, 1):
        made = evaluate(w, rows, "val", k, base, champion, solved=2)
        body = {"iteration": k, "evaluation": made, "baseline": champion}
        decision = {"action": "continue", "reason": "equal", "promote": True}
        w.workspace.ledger.append("gate", {**body, "decision": decision}, {"at": w.now})
        champion = made
    w.workspace.ledger.append(
        "close", {"reason": "all done", "iterations": 1, "policy": base, "champion": base}, {"at": w.now}
    )
    refused(w.workspace, template, "none of them of this policy")


def test_a_policy_that_was_held_is_refused_by_digest(tmp_path: Path, template: Path) -> None:
    workspace = write_evolution(tmp_path / "e")
    shutil.copy(template, workspace.path / "mlflow.db")
    (held,) = [e for e in workspace.ledger.of("gate") if e.body["decision"]["action"] == "hold"]
    (tested,) = [e for e in workspace.ledger.of("stage") if held.body["evaluation"] in e.body["outputs"].values()]
    with pytest.raises(LedgerError, match="none of them of this policy"):
        Tracker(None, workspace).promote(tested.body["inputs"]["policy"])


def test_the_champion_of_a_finished_evolution_is_promoted(tmp_path: Path, template: Path) -> None:
    workspace = write_evolution(tmp_path / "e")
    shutil.copy(template, workspace.path / "mlflow.db")
    commands.promote(workspace.path, None)
    uri = f"sqlite:///{workspace.path}/mlflow.db"
    assert tracking_server.registered(uri, "instar-sec", "champion")[0] == status(workspace)["champion"]
