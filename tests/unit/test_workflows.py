"""The workflows: pinned, least privilege, no untrusted text in a shell."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
SECRET = re.compile(r"secrets\.|github\.token")


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


def test_without_an_authorized_commit_no_later_job_runs() -> None:
    found = jobs(ROOT / ".github/workflows/evaluate.yml")
    assert found["authorize"]["outputs"]["sha"] == "${{ steps.who.outputs.sha }}"
    later = {name: job for name, job in found.items() if "authorize" in job.get("needs", [])}
    assert set(later) == {"train", "evaluate", "report"} == set(found) - {"authorize", "promote"}
    for name, job in later.items():
        assert "needs.authorize.outputs.sha != ''" in job["if"].split(" && "), name


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


def test_the_release_publishes_the_lock_of_the_registry_only() -> None:
    steps = jobs(ROOT / ".github/workflows/release.yml")["publish"]["steps"]
    (publish,) = [step["run"] for step in steps if "gh release create" in step.get("run", "")]
    assert "build/images/registry.lock.json" in publish.split()
    assert "images.lock" not in publish and "*.json" not in publish.replace("*.spdx.json", "")
    attested = [step["with"].get("subject-path", "") for step in steps if "attest-build" in step.get("uses", "")]
    assert "build/images/registry.lock.json" in "".join(attested).split()
