"""A real MLflow server: down, started, tracked to, its page opened in a browser. About 60 s."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.tracking import Tracker
from instar.workspace import Workspace
from support.browser import chromium
from support.written import ITERATIONS, write_evolution

pytest.importorskip("flask", reason="the MLflow server is not installed: pip install 'instar[ui]'")
pytest.importorskip("mlflow.server", reason="the MLflow server is not installed: pip install 'instar[ui]'")


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return write_evolution(tmp_path / "evolution", "fused")


@pytest.fixture
def server(port: int, tmp_path: Path) -> Iterator[str]:
    """The command that a user would run; the whole process group ends with the test."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no answer from {url} in 240 s: {log.read_text()[-2000:]}")


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
