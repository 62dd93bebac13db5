"""A real MLflow server: down, started, tracked to, its page opened in a browser. About 60 s."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.tracking import Tracker
from instar.workspace import Workspace
from support.browser import chromium
from support.mlflow_server import free_port, mlflow_server
from support.written import ITERATIONS, write_evolution

pytest.importorskip("flask", reason="the MLflow server is not installed: pip install 'instar[ui]'")
pytest.importorskip("mlflow.server", reason="the MLflow server is not installed: pip install 'instar[ui]'")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return write_evolution(tmp_path / "evolution", "fused")


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path / "mlflow", port) as uri:
        yield uri


@pytest.mark.slow  # test_tracking.py has the tracker with a database, and with servers that are down or stall
def test_server_shows_the_evolution(
    request: pytest.FixtureRequest, port: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # one core may serve and draw at the same time
    monkeypatch.setattr("instar.tracking_server.DEADLINE_S", 300.0)
    said: list[str] = []
    tracker = Tracker(f"http://127.0.0.1:{port}", workspace, said.append)
    assert not tracker.sync() and len(said) == 1  # nobody listens yet
    uri = str(request.getfixturevalue("server"))
    assert tracker.sync(force=True), said
    again = Tracker(uri, workspace)
    assert again.sync()
    version = again.promote(next(workspace.ledger.of("close")).body["champion"])

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.get_experiment_by_name("instar-sec")
    assert found is not None
    experiment = found.experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 1 + ITERATIONS + 1
    assert str(client.get_model_version_by_alias("instar-sec", "champion").version) == version
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{uri}/#/experiments/{experiment}/runs", timeout=120_000)
        page.get_by_text(workspace.evolution, exact=True).first.wait_for(state="visible", timeout=120_000)
