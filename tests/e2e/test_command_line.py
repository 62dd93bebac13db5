"""The commands a user types, on the micro recipe: run, resume, show, diff, promote, evaluate, and the exit codes of errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instar.workspace import locked
from support.micro import write_toml

KEYS = {"evolution", "recipe", "scale", "iteration", "policy", "champion", "status", "metrics", "ending"}


def instar(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instar", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished micro evolution, with tracking and report, and its file of differences."""
    folder = tmp_path_factory.mktemp("commands")
    differences = write_toml(folder / "micro.toml")
    # 18 validation tasks can tell, and a wide margin lets the gate pass a trained policy
    differences.write_text(differences.read_text() + "evaluate.margin = 0.99\n")
    done = instar("run", "sec", "--config", differences, "--out", folder / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\nchampion is the " in done.stdout
    return folder / "run", differences


def test_run_leaves_a_ledger_a_report_and_a_tracking_database(ran: tuple[Path, Path]) -> None:
    directory, _ = ran
    found = json.loads(instar("show", directory, "--json").stdout)
    assert set(found) >= KEYS
    assert (found["recipe"], found["scale"], found["iteration"], found["status"]) == ("sec", "tiny", 2, "done")
    assert found["policy"].startswith("sha256:")
    assert "<html" in (directory / "report.html").read_text()[:2000]
    assert (directory / "mlflow.db").stat().st_size > 0


def test_running_again_and_resume_change_nothing(ran: tuple[Path, Path]) -> None:
    directory, differences = ran
    before = json.loads(instar("show", directory, "--json").stdout)["head"]
    for words in (("run", "sec", "--config", differences, "--out", directory), ("resume", directory)):
        done = instar(*words)
        assert done.returncode == 0, done.stderr[-2000:]
        assert before == json.loads(instar("show", directory, "--json").stdout)["head"]
    assert "equal" in instar("diff", directory, directory).stdout


def test_promote_moves_the_alias_of_a_policy_that_passed_the_gate(ran: tuple[Path, Path]) -> None:
    directory, _ = ran
    done = instar("promote", directory)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(instar("show", directory, "--json").stdout)["champion"] in done.stdout


def test_evaluate_against_itself_is_not_worse(ran: tuple[Path, Path]) -> None:
    directory, _ = ran
    done = instar("evaluate", directory, "--against", directory)
    assert (done.returncode, "equal" in done.stdout) == (0, True), done.stderr[-2000:]  # few tasks, and the same policy
    assert "| id |" in done.stdout


def test_evaluate_against_the_registry_champion(ran: tuple[Path, Path]) -> None:
    directory, _ = ran
    assert instar("promote", directory).returncode == 0
    tests = ("--set", "test.splits=['id']", "--set", "test.tasks_per_arm=0", "--set", "test.min_pairs=6")
    done = instar("evaluate", directory, "--against", "champion", *tests)
    assert (done.returncode, "equal" in done.stdout) == (0, True), done.stderr[-2000:]
    missing = instar("evaluate", directory, "--against", "champion", "--tracking", f"sqlite:///{directory}/none.db")
    assert missing.returncode == 13, missing.stderr[-2000:]


def test_errors_have_their_own_exit_codes(ran: tuple[Path, Path], tmp_path: Path) -> None:
    directory, differences = ran
    done = instar("run", "sec", "--set", "curriculum.tua=1", "--out", tmp_path / "a")
    assert (done.returncode, "did you mean 'tau'?" in done.stderr) == (10, True)
    assert not (tmp_path / "a").exists(), "a bad configuration must not leave a directory"
    with locked(directory):
        assert instar("resume", directory).returncode == 14
    assert instar("show", tmp_path).returncode == 13
    done = instar("run", "sec", "--config", differences, "--set", "update.lr=0.5", "--out", directory)
    assert (done.returncode, "update.lr" in done.stderr) == (10, True)
