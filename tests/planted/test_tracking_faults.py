"""Row 36, tracking: what somebody deleted, copied or never installed, and servers that are down. About 20 s."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instar import tracking_server
from instar.cli import commands
from instar.errors import ConfigError, LedgerError, MissingDependencyError, UnavailableError
from instar.pipelines.recipes import build
from instar.tracking import Tracker
from instar.tracking_copy import embedded
from instar.tracking_server import registered
from instar.workspace import Workspace, open_workspace
from support.written import write_evolution

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'instar[tracking]'")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'instar[tracking]'")

MODEL = "instar-sec"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evolution with its MLflow database, champion promoted; never changed."""
    path = tmp_path_factory.mktemp("original") / "evolution"
    write_evolution(path, "fused", 2)
    commands.promote(path, None)
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


class Registry:
    """What MLflow holds for a run directory."""

    def __init__(self, path: Path) -> None:
        self.client = tracking_server._client(embedded(path))
        self.experiment = self.client.get_experiment_by_name(MODEL)

    def runs(self, *, parents: bool) -> list[Any]:
        found = self.client.search_runs([self.experiment.experiment_id])
        return [run for run in found if ("instar.role" in run.data.tags) == parents]

    def policies(self) -> list[str]:
        return sorted(v.tags["instar.policy"] for v in self.client.search_model_versions(f"name = '{MODEL}'"))

    def champion(self) -> str:
        return str(self.client.get_model_version_by_alias(MODEL, "champion").tags["instar.policy"])


def tree(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


@pytest.mark.parametrize("for_good", [False, True], ids=["deleted", "gone for good"])
@pytest.mark.parametrize("what", ["children", "parent", "both"])
def test_a_policy_is_registered_once_whatever_runs_were_deleted(copy: Path, what: str, for_good: bool) -> None:
    """Planted: `IndexError` without its children, all versions a second time without the parent."""
    Tracker(None, open_workspace(copy)).sync()  # settles the copy
    before = Registry(copy)
    policies, names = before.policies(), sorted(r.info.run_name for r in before.runs(parents=False))
    for parents in {"children": [False], "parent": [True], "both": [True, False]}[what]:
        for run in before.runs(parents=parents):
            before.client.delete_run(run.info.run_id)
            if for_good:
                before.client._tracking_client.store._hard_delete_run(run.info.run_id)
    if what != "parent":  # the policy has to be registered again, and needs a run to belong to
        before.client.delete_registered_model(MODEL)
    commands.promote(copy, None)
    after = Registry(copy)
    assert after.champion() in policies
    if what == "parent":
        assert after.policies() == policies
        assert len(after.runs(parents=True)) == 1
    assert len(after.policies()) == len(set(after.policies()))
    if not for_good:
        assert set(names) >= {r.info.run_name for r in after.runs(parents=False)}
        assert len({r.info.run_name for r in after.runs(parents=False)}) == len(after.runs(parents=False))


def test_a_deleted_experiment_is_named_with_what_restores_it(copy: Path) -> None:
    """Planted: "check the server, try again", for ever."""
    workspace = open_workspace(copy)
    Tracker(None, workspace).sync()
    registry = Registry(copy)
    number = registry.experiment.experiment_id
    registry.client.delete_experiment(number)
    restore = f"mlflow experiments restore --experiment-id {number}"
    with pytest.raises(ConfigError) as caught:
        commands.promote(copy, None)
    assert restore in caught.value.action and "deleted" in caught.value.found
    said: list[str] = []
    workspace.ledger.append("accept_code", {"code": "beef"}, {"at": 1.0})
    assert not Tracker(None, workspace, said.append).sync()
    assert restore in said[0] and "training goes on" in said[0]
    registry.client.restore_experiment(number)
    commands.promote(copy, None)
    assert len(Registry(copy).policies()) == 2


def test_what_the_server_refuses_for_good_is_no_reason_to_wait(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
    from mlflow.tracking import MlflowClient

    for code, kind in ((PERMISSION_DENIED, ConfigError), (TEMPORARILY_UNAVAILABLE, UnavailableError)):

        def refuse(*_: Any, code: Any = code, **__: Any) -> None:
            raise MlflowException("not you", error_code=code)

        monkeypatch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        with pytest.raises(kind, match="not you"):
            commands.promote(copy, None)


def test_a_copy_is_whole_and_touches_nothing_else(original: Path, copy: Path) -> None:
    """Planted: the manifest of a promotion in the copy was written into the original."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # as in a process that has never seen the original
    before = tree(original)
    Registry(copy).client.delete_registered_model(MODEL)
    commands.promote(copy, None)
    assert tree(original) == before
    client = Registry(copy).client
    found = client.get_model_version_by_alias(MODEL, "champion")
    assert (Path(found.source.removeprefix("file://")) / "manifest.json").is_relative_to(copy)
    assert not [run for run in Registry(copy).runs(parents=False) if str(original) in run.info.artifact_uri]
    assert registered(embedded(copy), MODEL, "champion")[1] == str(copy / "store")


def test_a_moved_directory_is_settled_where_it_lies(copy: Path, tmp_path: Path) -> None:
    for name in ("here now", "and there%20"):
        copy = copy.rename(tmp_path / name)
        commands.promote(copy, None)
        runs = Registry(copy).runs(parents=False)
        assert all(run.info.artifact_uri.startswith(f"{copy.as_uri()}/mlartifacts/") for run in runs)
        assert registered(embedded(copy), MODEL, "champion")[1] == str(copy / "store")
    assert len(Registry(copy).policies()) == 2


def test_a_database_that_cannot_be_settled_is_not_written_through(copy: Path) -> None:
    (copy / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"?" * 4096)
    with pytest.raises(UnavailableError, match=r"mlflow\.db"):
        commands.promote(copy, None)


@pytest.mark.parametrize(
    ("uri", "kind", "text"),
    [
        ("postgresql+nothing_of_that_name://user:hunter2@host/db", ConfigError, "nothing_of_that_name"),
        ("postgresql://user:hunter2@host:port/db", ConfigError, "correct the URI"),
        ("postgresql://user:hunter2@host/db", MissingDependencyError, "pip install psycopg2-binary"),
    ],
)
def test_what_tracking_lacks_is_asked_before_the_first_stage(
    uri: str, kind: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: `No module named 'psycopg2'` after the first iteration."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    with pytest.raises(kind) as caught:
        commands.evolve_in(build("sec", "tiny"), tmp_path / "run", tracking=uri)
    assert caught.value.where == "--tracking" and text in str(caught.value) and "hunter2" not in str(caught.value)
    assert not list(open_workspace(tmp_path / "run").ledger.of("stage"))


def test_without_mlflow_a_run_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "find_spec", lambda name: None if name == "mlflow" else name)
    with pytest.raises(MissingDependencyError, match=r"instar\[tracking\]"):
        Tracker(None, write_evolution(tmp_path / "evolution", "fused", 0, closed=False))


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A server that says nothing until the event is set, as a database does that MLflow tries for 102 s to reach."""
    answers, client = threading.Event(), tracking_server._client

    def wait(uri: str) -> Any:
        answers.wait(60)
        return client(uri)

    monkeypatch.setattr(tracking_server, "_client", wait)
    yield answers
    answers.set()


def test_a_server_that_says_nothing_costs_one_deadline(
    copy: Path, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: 102 s for each sync, 224 s for a resume with nothing to do."""
    monkeypatch.setattr(tracking_server, "FILE_DEADLINE_S", 0.3)
    workspace, said = open_workspace(copy), list[str]()
    workspace.ledger.append("accept_code", {"code": "beef"}, {"at": 1.0})
    tracker, began = Tracker(None, workspace, said.append), time.monotonic()
    assert not tracker.sync(force=True)
    assert not tracker.sync(force=True)
    with pytest.raises(UnavailableError, match="still waits"):
        tracker.promote(promoted(workspace))
    assert time.monotonic() - began < 5
    assert "no answer" in said[0] and "still waits" in said[1] and "training goes on" in said[0]
    monkeypatch.undo()
    stuck.set()
    deadline = time.monotonic() + 30
    while not tracker.sync(force=True):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def promoted(workspace: Workspace) -> str:
    return str(next(workspace.ledger.of("close")).body["champion"])


def test_nothing_passed_is_still_refused_first(copy: Path) -> None:
    with pytest.raises(LedgerError, match="none of them of this policy"):
        Tracker(None, open_workspace(copy)).promote("sha256:" + "0" * 64)
