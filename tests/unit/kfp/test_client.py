"""The client of Kubeflow Pipelines against a server on loopback: runs, uploads, who ended a run, and every failure."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from instar.errors import ConfigError, InstarError, UnavailableError
from instar.kfp import workflow
from instar.kfp.api import RunSpec, Schedule
from instar.kfp.client import KfpClient, open_kfp
from instar.kfp.http import KfpOptions, _refusal
from support.fake_kfp import FakeKfp

FAST = KfpOptions(connect_timeout_s=1.0, read_timeout_s=0.3, deadline_s=0.2, backoff_s=0.02)
PACKAGE = """
pipelineInfo: {name: p}
root:
  inputDefinitions:
    parameters:
      store: {parameterType: STRING}
      segment: {parameterType: NUMBER_INTEGER}
---
platforms: {}
"""


def test_a_run_is_created_as_specified_and_found_by_name(api: KfpClient, kfp: FakeKfp, spec: RunSpec) -> None:
    created = api.create_run(spec)
    assert (created.name, created.state) == ("evo-000000-1", "PENDING")
    raw = kfp.runs[created.run_id]
    assert raw["runtime_config"] == {"parameters": {"segment": 3, "store": "s3://b"}, "pipeline_root": "s3://b/root"}
    assert raw["service_account"] == "instar-submitter" and raw["experiment_id"] == spec.experiment
    api.create_run(replace(spec, name="evo-000000-10"))
    assert api.find_runs(spec.experiment, "evo-000000-1") == [created]
    assert api.find_runs(api.ensure_experiment("other"), "evo-000000-1") == []
    kfp.report(created.run_id, "FAILED", "exit code 11")
    found = api.get_run(created.run_id)
    assert found is not None and (found.state, found.error) == ("FAILED", "root.update.executor: exit code 11")
    assert api.get_run("nobody") is None


def test_every_page_is_read(api: KfpClient, spec: RunSpec) -> None:
    ids = [api.create_run(spec).run_id for _ in range(203)]
    assert [run.run_id for run in api.find_runs(spec.experiment, spec.name)] == ids


def test_terminate_stops_a_live_run_and_leaves_an_ended_one(api: KfpClient, kfp: FakeKfp, spec: RunSpec) -> None:
    run = api.create_run(spec).run_id
    api.terminate(run)
    assert kfp.runs[run]["state"] == "FAILED" and kfp.is_cancelled(run)
    api.terminate(run)
    kfp.slow_cancel = True
    slow = api.create_run(spec).run_id
    api.terminate(slow)
    assert kfp.runs[slow]["state"] == "CANCELING"
    api.terminate(slow)
    kfp.fault("terminate_run", "403")
    kfp.retry(run)
    with pytest.raises(ConfigError, match="403"):
        api.terminate(run)


@pytest.mark.parametrize("started", [False, True])
def test_only_a_look_at_the_workflow_tells_who_ended_a_run(
    api: KfpClient, kfp: FakeKfp, spec: RunSpec, started: bool
) -> None:
    stopped, failed = api.create_run(spec).run_id, api.create_run(spec).run_id
    if started:
        kfp.report(stopped, "RUNNING")
    kfp.cancel(stopped)
    kfp.report(failed, "FAILED", "main: Error (exit code 20)")
    listed = {run.run_id: (run.state, run.cancelled) for run in api.find_runs(spec.experiment, spec.name)}
    assert listed == {stopped: ("FAILED", started), failed: ("FAILED", False)}
    looked = {run_id: api.get_run(run_id) for run_id in listed}
    assert {run_id: run.cancelled for run_id, run in looked.items() if run} == {stopped: True, failed: False}


def test_a_run_that_goes_on_costs_one_request_and_an_old_server_without_v1beta1_is_no_error(
    api: KfpClient, kfp: FakeKfp, spec: RunSpec
) -> None:
    run = api.create_run(spec).run_id
    kfp.requests.clear()
    api.get_run(run)
    assert kfp.requests == ["get_run"]
    kfp.report(run, "RUNNING")
    kfp.cancel(run)
    kfp.fault("get_workflow", "404")
    found = api.get_run(run)
    assert found is not None and found.cancelled
    kfp.fault("get_workflow", "503")
    with pytest.raises(UnavailableError):  # not knowing who ended it must not look like a failure
        KfpClient(kfp.url, options=replace(FAST, deadline_s=0.0)).get_run(run)


@pytest.mark.parametrize(
    ("state", "history", "cancelled"),
    [
        ("FAILED", ["PENDING", "RUNNING", "CANCELING", "FAILED"], True),
        ("CANCELING", ["PENDING", "RUNNING"], True),  # the history follows with the agent's next report
        ("SUCCEEDED", ["RUNNING", "CANCELING", "SUCCEEDED"], True),
        ("FAILED", ["PENDING", "FAILED"], False),
        ("RUNNING", ["RUNNING", "CANCELING", "FAILED", "RUNNING"], False),  # retried
        ("FAILED", ["RUNNING", "CANCELING", "FAILED", "RUNNING", "FAILED"], False),
        ("FAILED", ["RUNNING", "FAILED", "RUNNING", "CANCELING", "FAILED"], True),
        ("", [], False),
    ],
)
def test_the_last_order_counts(state: str, history: list[str], cancelled: bool) -> None:
    assert workflow.ordered(state, [{"state": s} for s in history]) is cancelled


def node(name: str, phase: str, message: str, at: str, kind: str = "Pod") -> dict[str, str]:
    return {"name": f"evo-x1.{name}", "type": kind, "phase": phase, "message": message, "finishedAt": at}


@pytest.mark.parametrize(
    ("status", "run", "reason"),
    [
        (
            {
                "nodes": {
                    "a": node("root.update.executor", "Failed", "exit code 11", "2"),
                    "b": node("root.evaluate.executor", "Error", "evicted", "1"),
                    "c": node("root", "Failed", "child failed", "0", "DAG"),
                }
            },
            {},
            "root.evaluate.executor: evicted",
        ),
        ({"message": "workflow shutdown"}, {}, "workflow shutdown"),
        ({}, {"state_history": [{"state": "RUNNING"}, {"state": "FAILED", "error": {"message": "quota"}}]}, "quota"),
        ({}, {"error": {"message": "cannot convert"}}, "cannot convert"),
        (
            {},
            {
                "run_details": {
                    "task_details": [
                        {"display_name": "update", "state": "FAILED"},
                        {"state": "FAILED"},
                        {"display_name": "open", "state": "SUCCEEDED"},
                    ]
                }
            },
            "failed: update",
        ),
        ({}, {}, ""),
    ],
)
def test_the_reason_is_that_of_the_first_pod_that_failed(
    status: dict[str, object], run: dict[str, object], reason: str
) -> None:
    assert workflow.reason({"status": status}, run) == reason
    assert len(workflow.reason({"status": {"message": "x" * 10000}}, {})) == workflow.LENGTH


@pytest.mark.parametrize("manifest", ["", "{", "[]", "null"])
def test_an_answer_without_a_workflow_is_an_empty_one(manifest: str) -> None:
    assert workflow.parse({"pipeline_runtime": {"workflow_manifest": manifest}}) == {} == workflow.parse({})


@pytest.mark.parametrize(
    ("spec", "ended"),
    [
        ({}, False),
        ({"activeDeadlineSeconds": 0}, True),
        ({"activeDeadlineSeconds": 3600}, False),
        ({"shutdown": "Stop"}, True),
    ],
)
def test_what_marks_a_workflow_that_a_person_ended(spec: dict[str, object], ended: bool) -> None:
    assert workflow.was_ended({"spec": spec}) is ended


def test_experiments_and_uploads_are_idempotent(api: KfpClient, kfp: FakeKfp, tmp_path: Path) -> None:
    package = tmp_path / "p.yaml"
    package.write_text(PACKAGE)
    kfp.fault("create_experiment", "drop")
    kfp.fault("create_pipeline", "drop")
    kfp.fault("upload_version", "503 after")
    assert api.ensure_experiment("evo") == api.ensure_experiment("evo")
    version = api.upload("instar-sec-tiny-begin", "sha-1", package)
    assert api.upload("instar-sec-tiny-begin", "sha-1", package) == version
    other = api.upload("instar-sec-tiny-begin", "sha-2", package)
    assert other.pipeline_id == version.pipeline_id and other.version_id != version.version_id
    assert (len(kfp.experiments), len(kfp.pipelines), len(kfp.versions)) == (1, 1, 2)
    assert kfp.versions[version.version_id]["documents"][0]["pipelineInfo"] == {"name": "p"}
    kfp.fault("upload_version", "503")
    with pytest.raises(UnavailableError):
        api.upload("instar-sec-tiny-begin", "sha-3", package)


def test_an_unknown_parameter_is_a_refusal_although_the_server_says_500(
    api: KfpClient, spec: RunSpec, tmp_path: Path
) -> None:
    package = tmp_path / "p.yaml"
    package.write_text(PACKAGE)
    version = api.upload("p", "v1", package)
    api.create_run(replace(spec, version=version))
    for parameters in ({"store": "s", "segment": 1, "sgement": 1}, {"store": "s"}):
        with pytest.raises(ConfigError, match="Invalid input error"):
            api.create_run(replace(spec, version=version, parameters=parameters))


def test_a_deleted_pipeline_version_is_a_refusal_although_the_server_says_500(
    api: KfpClient, kfp: FakeKfp, spec: RunSpec, wanted: Schedule
) -> None:
    kfp.versions.clear()
    for call in (lambda: api.create_run(spec), lambda: api.create_schedule(wanted)):
        with pytest.raises(ConfigError, match="PipelineVersion version-0002 not found") as raised:
            call()
        assert "`instar submit`" in raised.value.action


def test_an_upload_without_the_right_names_it_although_the_server_does_not(
    api: KfpClient, kfp: FakeKfp, tmp_path: Path
) -> None:
    package = tmp_path / "p.yaml"
    package.write_text(PACKAGE)
    kfp.may_upload = False
    with pytest.raises(ConfigError, match="HTTP 400") as raised:
        api.upload("p", "v1", package)
    assert "`create` on `pipelines`" in raised.value.action


@pytest.mark.parametrize(
    ("status", "text", "error", "action"),
    [
        (
            500,
            "InternalServerError: Failed to create a run: ServiceUnavailable: NotFoundError: x",
            UnavailableError,
            "again",
        ),
        (500, "InternalServerError: Failed to create a pipeline version", UnavailableError, "again"),
        (500, "InternalServerError: cannot reach the database", UnavailableError, "again"),
        (500, "InternalServerError: Failed to validate workflow for (): templates.x", ConfigError, "correct"),
        (500, "InternalServerError: Failed: PermissionDenied: User 'x' is not authorized", ConfigError, "grant"),
        (403, "Failed to access run: PermissionDenied: User 'x' is not authorized", ConfigError, "grant"),
        (401, "Unauthenticated: Failed to check authorization", ConfigError, "token"),
        (400, "Failed to terminate a run x. Row not found", ConfigError, "correct"),
        (409, "Already exist error: The name x already exist", ConfigError, "correct"),
        (503, "no healthy upstream", UnavailableError, "again"),
    ],
)
def test_a_refusal_is_known_by_what_the_server_says(
    status: int, text: str, error: type[InstarError], action: str
) -> None:
    found = _refusal(status, json.dumps({"code": 13, "message": text}), "http://server run_service_create_run")
    assert type(found) is error and action in found.action


# --- errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("503", UnavailableError, "HTTP 503"),
        ("429", UnavailableError, "HTTP 429"),
        ("500", UnavailableError, "HTTP 500"),
        ("drop", UnavailableError, "ProtocolError"),
        ("hang", UnavailableError, "ReadTimeoutError"),
        ("401", ConfigError, "renew the token"),
        ("400", ConfigError, "HTTP 400"),
        ("html", ConfigError, "please log in"),
        ("redirect", ConfigError, "HTTP 302"),
        ("latin", UnavailableError, "HTTP 502"),
    ],
)
def test_every_failure_has_its_named_error_and_a_post_is_sent_once(
    api: KfpClient, kfp: FakeKfp, spec: RunSpec, fault: str, error: type[InstarError], text: str
) -> None:
    kfp.requests.clear()
    kfp.fault("create_run", fault)
    with pytest.raises(error, match=text) as raised:
        api.create_run(spec)
    assert kfp.requests == ["create_run"]
    assert all((raised.value.expected, raised.value.found, raised.value.where, raised.value.action))


def test_reads_are_repeated_until_the_deadline(api: KfpClient, kfp: FakeKfp, spec: RunSpec) -> None:
    run = api.create_run(spec)
    kfp.fault("get_run", "503", "drop", "429")
    patient = KfpClient(kfp.url, options=replace(FAST, deadline_s=20.0))
    assert patient.get_run(run.run_id) == run
    kfp.requests.clear()
    kfp.fault("list_runs", *["503"] * 100)
    with pytest.raises(UnavailableError):
        api.find_runs(spec.experiment, spec.name)
    assert 2 <= len(kfp.requests) <= 6


def test_a_refused_read_is_not_repeated(api: KfpClient, kfp: FakeKfp) -> None:
    kfp.fault("get_run", "403")
    with pytest.raises(ConfigError, match="grant the account"):
        api.get_run("run")
    assert kfp.requests == ["get_run"]


def test_no_server_and_no_url(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="NewConnectionError"):
        KfpClient("http://127.0.0.1:9", options=FAST).get_run("run")
    with pytest.raises(ConfigError, match="correct --host"):
        KfpClient("http://", options=FAST).get_run("run")
    with pytest.raises(ConfigError, match="token file"):
        open_kfp("http://127.0.0.1:9", tmp_path / "absent")


def test_the_token_is_read_for_every_call_and_never_logged(
    kfp: FakeKfp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    api = KfpClient(kfp.url, token_file=token, options=FAST)
    api.get_run("run")
    token.write_text("second-secret\n")
    kfp.fault("get_run", "401")
    with pytest.raises(ConfigError) as raised:
        api.get_run("run")
    assert kfp.tokens == ["Bearer first-secret", "Bearer second-secret"]
    assert "secret" not in caplog.text and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"hidden\xff", b"hidden\nhidden2\n", b"hidden\x07", b"hidden two", "hidden\u00e9".encode()]
)
def test_a_token_file_that_holds_no_token_is_refused_and_not_shown(
    content: bytes, kfp: FakeKfp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        KfpClient(kfp.url, token_file=token, options=FAST)
    shown = "".join(traceback.format_exception(raised.value))
    assert raised.value.where == str(token) and "hidden" not in shown + caplog.text
    token.write_bytes(b"first\n")
    api = KfpClient(kfp.url, token_file=token, options=FAST)
    token.write_bytes(content)
    with pytest.raises(ConfigError, match="one token"):
        api.get_run("run")
    assert kfp.requests == []


def test_one_client_serves_several_threads(kfp: FakeKfp, spec: RunSpec) -> None:
    api = KfpClient(kfp.url, options=replace(FAST, read_timeout_s=10.0))
    found: list[int] = []

    def work(number: int) -> None:
        run = api.create_run(replace(spec, name=f"n-{number}"))
        found.append(int(api.find_runs(spec.experiment, f"n-{number}")[0].run_id == run.run_id))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [1] * 8
