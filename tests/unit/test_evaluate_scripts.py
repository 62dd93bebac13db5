"""The scripts of the workflow `evaluate`, run for real against a small server that answers like the API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / ".github/scripts"
SHA, OTHER = "a" * 40, "b" * 40


class Api(ThreadingHTTPServer):
    """Answers the handful of calls from `comments` and `permissions`, and keeps what was written."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.permissions = {"writer": "write", "owner": "admin", "reader": "read"}
        self.comments: list[dict[str, Any]] = []
        self.written: list[tuple[str, str, dict[str, Any]]] = []


class Handler(BaseHTTPRequestHandler):
    @property
    def api(self) -> Api:
        assert isinstance(self.server, Api)
        return self.server

    def do_GET(self) -> None:
        assert self.headers["Authorization"] == "Bearer t0ken"
        path, _, query = self.path.partition("?")
        if match := re.fullmatch(r"/repos/o/r/collaborators/([^/]+)/permission", path):
            if match[1] == "broken":
                return self.answer(500, {"message": "try again"})
            level = self.api.permissions.get(match[1])
            return self.answer(200, {"permission": level}) if level else self.answer(404, {"message": "Not Found"})
        if path == "/repos/o/r/pulls/7":
            return self.answer(200, {"head": {"sha": SHA}})
        if path == "/repos/o/r/issues/7/comments":
            page = int(query.rpartition("page=")[2])
            return self.answer(200, self.api.comments[(page - 1) * 100 : page * 100])
        return self.answer(404, {"message": path})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.api.written.append((self.command, self.path, body))
        self.answer(201, {})

    do_PATCH = do_POST

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def script(api: Api, folder: Path, verb: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run evaluation.py with only the variables that the workflow gives it."""
    base = {
        "GITHUB_API_URL": f"http://127.0.0.1:{api.server_port}",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_TOKEN": "t0ken",
        "GITHUB_SERVER_URL": "https://forge.example",
        "GITHUB_RUN_ID": "99",
        "GITHUB_SHA": OTHER,
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "PAGE": str(folder / "page.md"),
        "SHA": SHA,
    }
    command = [sys.executable, "-I", str(SCRIPTS / "evaluation.py"), verb]
    return subprocess.run(command, env={**base, **env}, capture_output=True, text=True, check=False, timeout=60)


def authorize(api: Api, folder: Path, event: dict[str, Any]) -> tuple[int, str, str]:
    (folder / "event.json").write_text(json.dumps(event))
    (folder / "output").write_text("")
    done = script(api, folder, "authorize")
    return done.returncode, (folder / "output").read_text(), done.stderr


def comment(body: str, login: str = "writer") -> dict[str, Any]:
    return {"comment": {"body": body, "user": {"login": login}}, "issue": {"number": 7, "pull_request": {}}}


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (comment("/evaluate"), (SHA, "7", "sec")),
        (comment("/evaluate webrl\nplease", "owner"), (SHA, "7", "webrl")),
        ({"schedule": "41 4 * * 1"}, (OTHER, "", "sec")),
        ({"inputs": {"suite": "spark", "promote": ""}}, (OTHER, "", "spark")),
    ],
)
def test_who_may_ask(api: Api, tmp_path: Path, event: dict[str, Any], wanted: tuple[str, str, str]) -> None:
    code, output, error = authorize(api, tmp_path, event)
    assert (code, output) == (0, "sha={}\nnumber={}\nsuite={}\n".format(*wanted)), error


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (comment("/evaluate", "reader"), "permission is 'read'"),
        (comment("/evaluate", "stranger"), "permission is 'none'"),
        (comment("/evaluate", "../../orgs/o"), "permission is 'none'"),
        (comment("/evaluate $(id)"), "not `/evaluate`"),
        (comment("/evaluate sec sha=1"), "not `/evaluate`"),
        (comment(""), "not `/evaluate`"),
        (comment("/evaluated"), "not `/evaluate`"),
        (comment("thanks\n/evaluate"), "not `/evaluate`"),
        (comment("/evaluate") | {"issue": {"number": 7}}, "not on a pull request"),
    ],
)
def test_who_may_not_ask_gets_no_output_and_fails_no_run(
    api: Api, tmp_path: Path, event: dict[str, Any], reason: str
) -> None:
    code, output, error = authorize(api, tmp_path, event)
    assert (code, output) == (0, "")
    assert reason in error.partition("refused: ")[2]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"inputs": {"suite": "sec\nsha=0", "promote": ""}}, "not a commit and a suite"),
        (comment("/evaluate") | {"issue": {"number": 8, "pull_request": {}}}, "pulls/8: 404"),
        (comment("/evaluate", "broken"), "permission: 500"),
    ],
)
def test_an_error_is_not_taken_for_a_refusal(api: Api, tmp_path: Path, event: dict[str, Any], reason: str) -> None:
    code, output, error = authorize(api, tmp_path, event)
    assert (code, output) == (1, "")
    assert reason in error


@pytest.mark.parametrize(
    ("code", "conclusion", "ends"),
    [("0", "success", 0), ("2", "neutral", 0), ("3", "failure", 1), ("13", "failure", 1), ("", "failure", 1)],
)
def test_exit_code_becomes_the_conclusion(api: Api, tmp_path: Path, code: str, conclusion: str, ends: int) -> None:
    (tmp_path / "page.md").write_text("### better\n")
    assert script(api, tmp_path, "report", CODE=code, NUMBER="7").returncode == ends
    (_, check_path, check), (method, path, body) = api.written
    assert (check_path, check["conclusion"], check["head_sha"]) == ("/repos/o/r/check-runs", conclusion, SHA)
    assert (method, path) == ("POST", "/repos/o/r/issues/7/comments")
    assert body["body"].startswith("<!-- instar-evaluate -->\n### better\n") and SHA[:12] in body["body"]
    assert (tmp_path / "summary").read_text() == "### better\n"


def test_one_comment_is_kept_up_to_date_and_nobody_elses_is_touched(api: Api, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("new\n")
    mark, bot = "<!-- instar-evaluate -->", "github-actions[bot]"
    api.comments = [{"id": i, "body": "chat", "user": {"login": "reader"}} for i in range(150)]
    api.comments[3] = {"id": 3, "body": f"{mark} not ours", "user": {"login": "reader"}}
    api.comments[120] = {"id": 120, "body": f"{mark}\nold", "user": {"login": bot}}
    assert script(api, tmp_path, "report", CODE="0", NUMBER="7").returncode == 0
    assert [(m, p) for m, p, _ in api.written][1:] == [("PATCH", "/repos/o/r/issues/comments/120")]


def test_without_a_page_the_answer_says_so_and_fails(api: Api, tmp_path: Path) -> None:
    assert script(api, tmp_path, "report", CODE="0", NUMBER="7").returncode == 1
    (_, _, check), (_, _, body) = api.written
    assert check["conclusion"] == "failure"
    assert "did not finish" in body["body"] and "https://forge.example/o/r/actions/runs/99" in body["body"]


def test_a_page_too_long_for_a_comment_is_cut_and_says_so(api: Api, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("x" * 100_000)
    assert script(api, tmp_path, "report", CODE="0", NUMBER="").returncode == 0
    ((_, _, check),) = api.written
    assert len(check["output"]["summary"]) < 65_535 and "Cut:" in check["output"]["summary"]


@pytest.mark.parametrize("code", [0, 2, 3, 13])
def test_the_verdict_is_an_output_and_not_a_failed_step(tmp_path: Path, code: int) -> None:
    asked = tmp_path / "instar"
    asked.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit {code}\n')
    asked.chmod(0o755)
    done = run_evaluate(tmp_path, INSTAR=str(asked), SUITE="sec; touch owned", TRACKING="https://mlflow.example")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output").read_text() == f"code={code}\n"
    assert "--suite sec; touch owned --scale tiny --tracking https://mlflow.example" in (tmp_path / "asked").read_text()
    assert not (tmp_path / "owned").exists()


def test_a_candidate_cannot_bring_its_own_registry_or_store(tmp_path: Path) -> None:
    done = run_evaluate(tmp_path, INSTAR="/bin/true", SUITE="sec", TRACKING="")
    assert done.returncode != 0 and "INSTAR_TRACKING_URI" in done.stderr
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate/evolution.json").write_text("{}")
    done = run_evaluate(tmp_path, INSTAR="/bin/true", SUITE="sec", TRACKING="https://mlflow.example")
    assert done.returncode != 0 and "policy folder" in done.stdout
    assert not (tmp_path / "output").exists()


def run_evaluate(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "GITHUB_OUTPUT": str(folder / "output"), **env}
    command = ["bash", str(SCRIPTS / "evaluate.sh")]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
