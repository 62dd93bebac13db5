"""MLflow tracking against real SQLite databases: nothing lost, nothing twice, whenever it is killed. About 25 s."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar import tracking, tracking_server
from instar.errors import ConfigError, LedgerError
from instar.timeline import points, qualified
from instar.tracking import Tracker, Untracked, open_tracker
from instar.workspace import Workspace
from support.written import ITERATIONS, write_evolution

pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: pip install 'instar[tracking]'")
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'instar[tracking]'")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds of migrations."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracking_server._client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(params=["rounds", "fused"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, template: Path) -> Workspace:
    made = write_evolution(tmp_path / "evolution", request.param)
    shutil.copy(template, made.path / "mlflow.db")
    return made


@pytest.fixture
def fused(tmp_path: Path, template: Path) -> Workspace:
    made = write_evolution(tmp_path / "evolution", "fused", 2)
    shutil.copy(template, made.path / "mlflow.db")
    return made


def snapshot(workspace: Workspace) -> dict[str, Any]:
    """Return all that MLflow holds, without run ids and without the tracker's own clock."""
    client = tracking_server._client(f"sqlite:///{workspace.path.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("instar-sec")
    runs: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.run_name not in runs, "a run is there twice"
        names = [n for n in run.data.metrics if not n.startswith("perf/tracking")]
        history = {
            n: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, n))
            for n in names
        }
        tags = {k: v for k, v in run.data.tags.items() if k.startswith("instar.")}
        runs[run.info.run_name] = (run.info.status, tags, run.data.params, history)
    versions = client.search_model_versions("name = 'instar-sec'")
    aliases = client.get_registered_model("instar-sec").aliases
    policies = sorted((v.tags["instar.iteration"], v.tags["instar.policy"]) for v in versions)
    candidate = client.get_model_version("instar-sec", str(aliases["candidate"])).tags["instar.policy"]
    return {"runs": runs, "policies": policies, "candidate": candidate}


def test_points_of_both_clocks_agree(tmp_path: Path) -> None:
    found = {}
    for clock in ("rounds", "fused"):
        made = write_evolution(tmp_path / clock, clock, 2)
        merged: dict[int, dict[str, float]] = {}
        for entry in made.ledger.of("stage"):
            for point in points(made, entry):
                pure = {k: v for k, v in point.metrics.items() if not k.startswith("perf/")}
                merged.setdefault(point.step, {}).update(pure)
        found[clock] = merged
    assert found["rounds"] == found["fused"]
    assert found["fused"][1]["update/grad_norm"] == 2.0
    assert found["fused"][4]["evaluate/val/accuracy"] == pytest.approx((8 + 4 + 1) / 30)


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("rollout", "tokens", "rollout/tokens"),
        ("curriculum", "curriculum/sort-03/p", "curriculum/sort-03/p"),
        ("rollout", "perf/tokens_per_s", "perf/rollout/tokens_per_s"),
        ("evaluate", "val/accuracy", "evaluate/val/accuracy"),
    ],
)
def test_names_are_qualified_once(stage: str, name: str, expected: str) -> None:
    assert (
        qualified(stage, name)
        == qualified(stage, expected.removeprefix("perf/") if "perf" not in name else name)
        == expected
    )


def test_everything_arrives(workspace: Workspace) -> None:
    tracker = Tracker(None, workspace)
    assert tracker.sync()
    runs = snapshot(workspace)["runs"]
    assert len(runs) == 1 + ITERATIONS + 1
    status, tags, params, history = runs["sec-tiny-seed7"]
    assert (status, tags["instar.ledger_seq"]) == ("FINISHED", str(len(workspace.ledger.entries) - 1))
    assert tags["instar.ledger_head"] == workspace.ledger.head
    assert (params["update.lr"], params["seed"], params["dataset_prep.arms.0.name"]) == ("0.0005", "7", "sort-03")
    assert [step for step, _, _ in history["evaluate/val/accuracy"]] == [0, 2, 4, 6, 8]
    status, tags, _, history = runs["sec-tiny-seed7 3"]
    assert (status, tags["instar.gate"]) == ("FINISHED", "continue")
    assert [(step, value) for step, _, value in history["update/grad_norm"]] == [(4, 5.0), (5, 6.0)]
    fused = len(history["update/arm/sort-03/reward_mean"]) == 1
    p = [(step, round(value, 9)) for step, _, value in history["curriculum/sort-04/p"]]
    assert p == ([(5, 0.2)] if fused else [(4, 0.2), (5, 0.2)])
    assert "update/arm/sort-03/reward_mean" not in runs["sec-tiny-seed7"][3]
    assert [(step, value) for step, _, value in history["evaluate/val/sort-03/accuracy"]] == [(6, 0.9)]
    assert tracker.perf["perf/tracking_s"] > 0 and tracker.perf["perf/tracking_failures"] == 0


def test_overhead_of_every_iteration(workspace: Workspace) -> None:
    """Stages of 2 s (four of 0.4 s in a fused one) stand 3 s apart, and a gate follows at once."""
    Tracker(None, workspace).sync()
    runs = snapshot(workspace)["runs"]
    rounds = "fused" not in {e.body["stage"] for e in workspace.ledger.of("stage")}
    share = 1 / 3 if rounds else 1 - (4 * 0.4 + 2) / 6
    per_step = {2 * k: (1 / 3 if k == 0 else share) for k in range(ITERATIONS + 1)}
    found = runs["sec-tiny-seed7"][3]
    assert {step: v for step, _, v in found["overhead_share"]} == pytest.approx(per_step)
    assert {step: v for step, _, v in found["goodput"]} == pytest.approx({s: 1 - v for s, v in per_step.items()})
    assert {v for _, _, v in found["idle_s"]} == {0.0}
    assert [(step, v) for step, _, v in runs["sec-tiny-seed7 3"][3]["overhead_share"]] == [(6, pytest.approx(share))]


def test_second_sync_sends_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker(None, workspace).sync()
    before = snapshot(workspace)
    counter = Counter(monkeypatch)
    assert Tracker(None, workspace).sync()
    assert snapshot(workspace) == before
    assert counter.calls == 0


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Counter:
    """Counts the calls that change MLflow, and raises before number `last`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int = 10**9) -> None:
        from mlflow.tracking import MlflowClient

        self.calls, self.last = 0, last
        writers = (
            "create_experiment",
            "create_run",
            "log_batch",
            "log_dict",
            "set_terminated",
            "update_run",
            "create_registered_model",
            "create_model_version",
            "set_registered_model_alias",
        )
        for name in writers:
            monkeypatch.setattr(MlflowClient, name, self._wrap(getattr(MlflowClient, name)))

    def _wrap(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.calls >= self.last:
                raise Killed
            self.calls += 1
            return method(*args, **kwargs)

        return call


def test_killed_before_every_call_and_started_again(fused: Workspace, template: Path) -> None:
    Tracker(None, fused).sync()
    expected = snapshot(fused)
    shutil.copy(template, fused.path / "mlflow.db")
    kills = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            counter = Counter(patch, last=kills)
            try:
                Tracker(None, fused).sync()
                break
            except Killed:
                kills += 1
                assert counter.calls == kills - 1
    assert kills > 10
    assert snapshot(fused) == expected


def test_entry_by_entry_equals_all_at_once(fused: Workspace, template: Path) -> None:
    Tracker(None, fused).sync()
    expected = snapshot(fused)
    shutil.copy(template, fused.path / "mlflow.db")
    entries = fused.ledger.entries
    for end in range(len(entries) + 1):
        fused.ledger.entries = entries[:end]
        assert Tracker(None, fused).sync()
    assert snapshot(fused) == expected


def test_another_history_under_the_same_name_gets_its_own_run(fused: Workspace) -> None:
    Tracker(None, fused).sync()
    other = write_evolution(fused.path.parent / "other", "rounds", 1)
    assert Tracker(f"sqlite:///{fused.path.resolve()}/mlflow.db", other).sync()
    client = tracking_server._client(f"sqlite:///{fused.path.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("instar-sec").experiment_id
    parents = client.search_runs([experiment], "tags.`instar.role` = 'evolution'")
    assert sorted(r.data.tags["instar.ledger_head"] for r in parents) == sorted([fused.ledger.head, other.ledger.head])


def test_long_values_are_cut_with_their_digest() -> None:
    flat = tracking_server.flatten(
        {"a": {"b": "x" * 7000, "c": [1, 2]}, "uri": "s3://key:hunter2@host/b", "k" * 300: 1, "arms": [{"n": 1}]}
    )
    assert len(flat["a.b"]) == 6000 and "sha256:" in flat["a.b"][-80:]
    assert (flat["a.c"], flat["arms.0.n"], flat["uri"]) == ("[1, 2]", "1", "s3://***@host/b")
    assert all(len(key) <= 250 for key in flat)


def test_only_a_passed_policy_becomes_champion(workspace: Workspace) -> None:
    tracker = Tracker(None, workspace)
    close = next(workspace.ledger.of("close"))
    with pytest.raises(LedgerError, match="none of them of this policy"):
        tracker.promote(close.body["policy"])
    client = tracking_server._client(tracker.uri)
    version = tracker.promote(close.body["champion"])
    found = client.get_model_version_by_alias("instar-sec", "champion")
    assert (str(found.version), found.tags["instar.policy"]) == (version, close.body["champion"])
    assert str(client.get_model_version_by_alias("instar-sec", "candidate").version) == version
    assert len(client.search_model_versions("name = 'instar-sec'")) == 3
    manifest = Path(found.source.removeprefix("file://")) / "manifest.json"
    assert close.body["champion"] in manifest.read_text()
    assert tracker.promote(close.body["champion"]) == version
    assert [e.body["policy"] for e in workspace.ledger.of("promote")] == [close.body["champion"]]


def test_server_that_is_down_costs_a_warning(fused: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://user:hunter2@127.0.0.1:{unused.getsockname()[1]}"
    *before_the_end, end = fused.ledger.entries
    fused.ledger.entries = before_the_end
    tracker = Tracker(uri, fused, said.append)
    assert not tracker.sync()
    assert not tracker.sync()  # inside the pause: silent and free
    assert len(said) == 1 and "hunter2" not in said[0] and "next sync" in said[0]
    assert tracker.perf["perf/tracking_failures"] == 1
    tracker.fail()
    assert len(said) == 2
    fused.ledger.entries.append(end)
    assert not tracker.sync()  # the end of an evolution is always tried
    assert len(said) == 3


def test_server_that_stalls_costs_bounded_time(fused: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    said: list[str] = []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        assert not Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", fused, said.append).sync()
        assert time.monotonic() - started < 20
    assert len(said) == 1


def test_slow_server_is_left_after_the_deadline(fused: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "DEADLINE_S", -1.0)
    said: list[str] = []
    assert not Tracker("http://127.0.0.1:9", fused, said.append).sync()
    assert "slow server" in said[0]


def test_failure_marks_the_run_and_resume_unmarks_it(tmp_path: Path, template: Path) -> None:
    made = write_evolution(tmp_path / "evolution", "fused", 1, closed=False)
    shutil.copy(template, made.path / "mlflow.db")
    Tracker(None, made).fail()
    assert snapshot(made)["runs"]["sec-tiny-seed7"][0] == "FAILED"
    made.ledger.append("accept_code", {"code": "beef"}, {"at": 1.0})
    Tracker(None, made).sync()
    assert snapshot(made)["runs"]["sec-tiny-seed7"][0] == "RUNNING"


def test_uris(tmp_path: Path) -> None:
    made = write_evolution(tmp_path / "evolution", "fused", 0, closed=False)
    with pytest.raises(ConfigError, match="--tracking"):
        Tracker("mlruns", made)
    with pytest.raises(ConfigError):
        Tracker("ftp://user:hunter2@host", made)
    assert isinstance(open_tracker("off", made), Untracked)
    assert tracking.Untracked().sync()
    with pytest.raises(LedgerError, match="off"):
        tracking.Untracked().promote("sha256:0")


def test_artifacts_of_a_sqlite_uri_stay_beside_it(
    fused: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own default would be a folder in whatever directory the command was started from."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert Tracker(f"sqlite:///{elsewhere}/tracking.db", fused).sync()
    assert list(here.iterdir()) == []
    assert (elsewhere / "mlartifacts").is_dir()
