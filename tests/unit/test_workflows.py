"""The workflows and their scripts: pinned, least privilege, no untrusted text in a shell; the scripts run for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from instar.pipelines.pools import load_images

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / ".github/scripts"
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
SECRET = re.compile(r"secrets\.|github\.token")
SHA, OTHER = "a" * 40, "b" * 40


def load(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text()))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return dict(load(path)["jobs"])


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job["steps"]]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_the_expected_workflows_are_there() -> None:
    assert {"ci", "nightly", "containers", "manifests", "evaluate", "release"} <= {path.stem for path in FILES}


def test_actions_are_pinned_by_commit_with_the_version_beside_it(workflow: Path) -> None:
    used = re.findall(r"uses:(.*)", workflow.read_text())
    assert used and len(used) == sum("uses" in step for step in steps(workflow))
    for line in used:
        assert re.fullmatch(r" [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+){0,2}", line), line


def test_one_action_has_one_commit_everywhere() -> None:
    found: dict[str, set[str]] = {}
    for path in FILES:
        for name, pin in re.findall(r"uses: ([\w./-]+)@(.*)", path.read_text()):
            found.setdefault(name, set()).add(pin)
    assert not {name: pins for name, pins in found.items() if len(pins) > 1}


def test_no_permission_is_given_that_a_job_does_not_name(workflow: Path) -> None:
    assert load(workflow)["permissions"] == {}
    for name, job in jobs(workflow).items():
        assert isinstance(job.get("permissions"), dict), f"{name} inherits or takes a blanket permission"


def test_every_job_has_a_deadline_and_a_fixed_machine(workflow: Path) -> None:
    for name, job in jobs(workflow).items():
        assert 0 < job["timeout-minutes"] <= 60, name
        assert not job["runs-on"].endswith("latest"), name


def test_no_expression_is_pasted_into_a_shell(workflow: Path) -> None:
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), step
    assert "pull_request_target" not in workflow.read_text()
    assert "workflow_run" not in workflow.read_text()


def test_checkouts_leave_no_token_behind_and_nothing_is_cached(workflow: Path) -> None:
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        assert "actions/cache" not in step.get("uses", ""), "code under test could poison the default branch's cache"
        assert "cache" not in step.get("with", {})


def test_called_make_targets_and_scripts_exist(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = "\n".join(step.get("run", "") for step in steps(workflow))
    called = set(re.findall(r"(?:^|\s)make ([\w-]+)", commands))
    scripts = re.findall(r"(\.github/scripts/[\w.]+)", commands)
    assert called or scripts
    assert called <= targets, f"no such make target: {called - targets}"
    for script in scripts:
        assert (ROOT / script).is_file(), script
        direct = re.search(rf"(?<!python3 ){re.escape(script)}", commands)
        assert not direct or os.access(ROOT / script, os.X_OK), f"{script} cannot be run"


def test_code_under_test_runs_without_secrets_and_without_a_writing_token() -> None:
    found = jobs(ROOT / ".github/workflows/evaluate.yml")
    trusted = {"${{ github.event.repository.default_branch }}"}
    for name, job in found.items():
        refs = {s["with"].get("ref") for s in job["steps"] if s.get("uses", "").startswith("actions/checkout@")}
        writes = "write" in job["permissions"].values()
        if not refs <= trusted | {None}:
            assert name == "train"
            assert job["permissions"] == {"contents": "read"}
            assert not SECRET.search(json.dumps(job)) and "environment" not in job
        if writes or SECRET.search(json.dumps(job)):
            assert refs <= trusted or "workflow_dispatch" in job["if"], f"{name} holds rights and runs other code"
    assert found["promote"]["environment"] == "production"
    assert "default_branch" in found["promote"]["if"]


def test_publishing_needs_a_tag_and_its_own_environment() -> None:
    found = jobs(ROOT / ".github/workflows/release.yml")
    assert (
        load(ROOT / ".github/workflows/release.yml")[True]["workflow_dispatch"]["inputs"]["dry_run"]["default"] is True
    )
    for name, job in found.items():
        if name == "publish":
            assert "refs/tags/v" in job["if"] and "!inputs.dry_run" in job["if"]
            assert job["environment"] == "release" and set(job["needs"]) == set(found) - {"publish"}
        else:
            assert job["permissions"] == {"contents": "read"} and not SECRET.search(json.dumps(job))


# --- the scripts of `evaluate`, against a small server that answers like the API ---


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
        "GITHUB_API_URL": f"http://127.0.0.1:{api.server_port}", "GITHUB_REPOSITORY": "o/r", "GITHUB_TOKEN": "t0ken",
        "GITHUB_SERVER_URL": "https://forge.example", "GITHUB_RUN_ID": "99", "GITHUB_SHA": OTHER,
        "GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_EVENT_PATH": str(folder / "event.json"), "PAGE": str(folder / "page.md"), "SHA": SHA,
    }  # fmt: skip
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


def test_without_an_authorized_commit_no_later_job_runs() -> None:
    found = jobs(ROOT / ".github/workflows/evaluate.yml")
    assert found["authorize"]["outputs"]["sha"] == "${{ steps.who.outputs.sha }}"
    later = {name: job for name, job in found.items() if "authorize" in job.get("needs", [])}
    assert set(later) == {"train", "evaluate", "report"} == set(found) - {"authorize", "promote"}
    for name, job in later.items():
        assert "needs.authorize.outputs.sha != ''" in job["if"].split(" && "), name


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


# --- the release, as far as it runs without publishing ---


@pytest.fixture(scope="module")
def dists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tree built twice, under two clocks, time zones and masks."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: build_dist.sh builds the tracked files")
    made = []
    for number, (zone, mask) in enumerate((("UTC", "022"), ("Asia/Tokyo", "077"))):
        out = tmp_path_factory.mktemp(f"dist{number}")
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone, "VERSION": ""}
        del env["VERSION"]
        command = ["bash", "-c", f"umask {mask}; exec {SCRIPTS}/build_dist.sh {out}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        made.append(out)
    return made[0], made[1]


def test_two_builds_are_equal_byte_for_byte(dists: tuple[Path, Path]) -> None:
    one, two = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in dists]
    assert sorted(one) == sorted(two)
    assert len(one) == 4
    assert [name for name in one if one[name] != two[name]] == []


def test_the_sums_are_those_of_the_files(dists: tuple[Path, Path]) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dists[0], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_the_source_archive_names_no_user_and_no_clock(dists: tuple[Path, Path]) -> None:
    (archive,) = dists[0].glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 1700000000)}


def test_the_sbom_lists_the_files_and_what_the_wheel_needs(dists: tuple[Path, Path]) -> None:
    (wheel,), (path,) = dists[0].glob("*.whl"), dists[0].glob("*.spdx.json")
    found = json.loads(path.read_text())
    with zipfile.ZipFile(wheel) as opened:
        assert {f["fileName"] for f in found["files"]} == {f"./{name}" for name in opened.namelist()}
    ids = [entry["SPDXID"] for entry in (*found["packages"], *found["files"])]
    assert len(ids) == len(set(ids))
    linked = {side for r in found["relationships"] for side in (r["spdxElementId"], r["relatedSpdxElement"])}
    assert linked == {"SPDXRef-DOCUMENT", *ids}, "an element without a relation, or a relation to nothing"
    core = {r["relatedSpdxElement"] for r in found["relationships"] if r["relationshipType"] == "DEPENDS_ON"}
    assert core == {f"SPDXRef-needs-{name}" for name in ("minio", "numpy", "pyarrow", "rich", "typer")}


@pytest.mark.parametrize("plant", ["payload", "version", "second"])
def test_a_bad_distribution_is_refused(dists: tuple[Path, Path], tmp_path: Path, plant: str) -> None:
    for path in dists[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (wheel,) = tmp_path.glob("*.whl")
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    if plant == "payload":
        rewrite(wheel, "instar/errors.py", b"import os\n")
    elif plant == "version":
        env["VERSION"] = "v9.9.9"
    else:
        (tmp_path / "other-1-py3-none-any.whl").write_bytes(wheel.read_bytes())
    command = [sys.executable, str(SCRIPTS / "dist.py"), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert {"payload": "as in RECORD", "version": "version 9.9.9", "second": "one *.whl"}[plant] in done.stderr


RECORDER = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$RECORD"
case "$1" in
  login) cat > "$RECORD.stdin" ;;
  inspect) printf '%s\\n' "$DIGESTS" ;;
esac
"""
LOCAL, PUSHED = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def push(folder: Path, digests: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run push_images.sh with docker and cosign that only record; `digests` are the image's in all registries."""
    for name in ("docker", "cosign"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(RECORDER)
        program.chmod(0o755)
    out = folder / "images"
    out.mkdir()
    (out / "images.lock").write_text(json.dumps({"instar-cpu": {"image": "instar-cpu", "digest": LOCAL}}))
    (out / "instar-cpu.spdx.json").write_text("{}")
    env = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "RECORD": str(folder / "record"), "DIGESTS": digests, "TAG": "v1.2.3",
        "GITHUB_OUTPUT": str(folder / "output"), "REGISTRY": "registry.test:5000/team", "REGISTRY_USER": "pusher",
        "REGISTRY_PASSWORD": "hunter2-of-the-test",
    }  # fmt: skip
    command = ["bash", str(SCRIPTS / "push_images.sh"), str(out)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done, (folder / "record").read_text().splitlines()


def test_the_lock_of_a_release_holds_the_digest_of_the_registry(tmp_path: Path) -> None:
    image = "registry.test:5000/team/instar-cpu"
    done, record = push(tmp_path, f"other.test/instar-cpu@{LOCAL}\n{image}@{PUSHED}")
    assert done.returncode == 0, done.stderr
    images = load_images(tmp_path / "images/registry.lock.json")
    assert images.reference("instar-cpu", "registry.test:5000/team") == f"{image}@{PUSHED}"
    assert set(images.digests) == {"instar-cpu"}
    assert (tmp_path / "output").read_text() == f"digest={PUSHED}\n"
    assert record.index(f"docker push {image}:v1.2.3") < record.index(f"cosign sign --yes {image}@{PUSHED}")
    assert [line for line in record if "attest" in line] == [
        f"cosign attest --yes --type spdxjson --predicate {tmp_path}/images/instar-cpu.spdx.json {image}@{PUSHED}"
    ]
    assert (tmp_path / "record.stdin").read_text() == "hunter2-of-the-test"
    assert "hunter2" not in "".join([*record, done.stdout, done.stderr]), "a password on a command line or in the log"


@pytest.mark.parametrize("digests", ["", f"other.test/instar-cpu@{LOCAL}", "registry.test:5000/team/instar-cpu@latest"])
def test_without_a_digest_of_the_registry_there_is_no_lock(tmp_path: Path, digests: str) -> None:
    done, record = push(tmp_path, digests)
    assert done.returncode != 0
    assert not [line for line in record if line.startswith("cosign")]
    assert not (tmp_path / "images/registry.lock.json").exists()


def test_the_release_publishes_the_lock_of_the_registry_only() -> None:
    steps = jobs(ROOT / ".github/workflows/release.yml")["publish"]["steps"]
    (publish,) = [step["run"] for step in steps if "gh release create" in step.get("run", "")]
    assert "build/images/registry.lock.json" in publish.split()
    assert "images.lock" not in publish and "*.json" not in publish.replace("*.spdx.json", "")
    attested = [step["with"].get("subject-path", "") for step in steps if "attest-build" in step.get("uses", "")]
    assert "build/images/registry.lock.json" in "".join(attested).split()


def rewrite(wheel: Path, name: str, data: bytes) -> None:
    """Replace one member and leave RECORD as it is."""
    with zipfile.ZipFile(wheel) as opened:
        members = {n: opened.read(n) for n in opened.namelist()}
    assert name in members
    with zipfile.ZipFile(wheel, "w") as opened:
        for key, value in (members | {name: data}).items():
            opened.writestr(key, value)
