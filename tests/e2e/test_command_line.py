"""The commands a user types, on the micro recipe: run, resume, show, diff, promote, evaluate, and the exit codes of errors.

The first run and the first `show` are processes of their own; the other commands pass through the entry point in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from instar.cli import app
from instar.workspace import locked
from support.micro import write_toml

KEYS = {"evolution", "recipe", "scale", "iteration", "policy", "champion", "status", "metrics", "ending"}


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Instar = Callable[..., Done]


def process(*words: str | Path) -> Done:
    """Run a command as a user does, in a process of its own."""
    command = [sys.executable, "-m", "instar", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def instar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Instar:
    """Run a command through the same entry point, in this process: a new one takes seconds to import torch and MLflow."""

    def call(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["instar", *map(str, words)])
        with pytest.raises(SystemExit) as ending:
            app.main()
        told = capsys.readouterr()
        return Done(int(ending.value.code or 0), str(told.out), str(told.err))

    return call


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished micro evolution, with tracking and report, and its file of differences."""
    folder = tmp_path_factory.mktemp("commands")
    differences = write_toml(folder / "micro.toml")
    # 18 validation tasks can tell, and a wide margin lets the gate pass a trained policy
    differences.write_text(differences.read_text() + "evaluate.margin = 0.99\n")
    done = process("run", "sec", "--config", differences, "--out", folder / "run")
    assert done.code == 0, done.err[-2000:]
    assert "\nchampion is the " in done.out
    return folder / "run", differences


def test_run_leaves_a_ledger_a_report_and_a_tracking_database(ran: tuple[Path, Path]) -> None:
    directory, _ = ran
    shown = json.loads(process("show", directory, "--json").out)
    assert set(shown) >= KEYS
    assert (shown["recipe"], shown["scale"], shown["iteration"], shown["status"]) == ("sec", "tiny", 2, "done")
    assert shown["policy"].startswith("sha256:")
    assert "<html" in (directory / "report.html").read_text()[:2000]
    assert (directory / "mlflow.db").stat().st_size > 0


def test_running_again_and_resume_change_nothing(ran: tuple[Path, Path], instar: Instar) -> None:
    directory, differences = ran
    before = json.loads(instar("show", directory, "--json").out)["head"]
    for words in (("run", "sec", "--config", differences, "--out", directory), ("resume", directory)):
        done = instar(*words)
        assert done.code == 0, done.err[-2000:]
        assert before == json.loads(instar("show", directory, "--json").out)["head"]
    assert "equal" in instar("diff", directory, directory).out


def test_promote_moves_the_alias_of_a_policy_that_passed_the_gate(ran: tuple[Path, Path], instar: Instar) -> None:
    directory, _ = ran
    done = instar("promote", directory)
    assert done.code == 0, done.err[-2000:]
    assert json.loads(instar("show", directory, "--json").out)["champion"] in done.out


def test_evaluate_against_itself_is_not_worse(ran: tuple[Path, Path], instar: Instar) -> None:
    directory, _ = ran
    done = instar("evaluate", directory, "--against", directory)
    assert (done.code, "equal" in done.out) == (0, True), done.err[-2000:]  # few tasks, and the same policy
    assert "| id |" in done.out


def test_evaluate_against_the_registry_champion(ran: tuple[Path, Path], instar: Instar) -> None:
    directory, _ = ran
    assert instar("promote", directory).code == 0
    tests = ("--set", "test.splits=['id']", "--set", "test.tasks_per_arm=0", "--set", "test.min_pairs=6")
    done = instar("evaluate", directory, "--against", "champion", *tests)
    assert (done.code, "equal" in done.out) == (0, True), done.err[-2000:]
    missing = instar("evaluate", directory, "--against", "champion", "--tracking", f"sqlite:///{directory}/none.db")
    assert missing.code == 13, missing.err[-2000:]


def test_errors_have_their_own_exit_codes(ran: tuple[Path, Path], instar: Instar, tmp_path: Path) -> None:
    directory, differences = ran
    done = instar("run", "sec", "--set", "curriculum.tua=1", "--out", tmp_path / "a")
    assert (done.code, "did you mean 'tau'?" in done.err) == (10, True)
    assert not (tmp_path / "a").exists(), "a bad configuration must not leave a directory"
    with locked(directory):
        assert instar("resume", directory).code == 14
    assert instar("show", tmp_path).code == 13
    done = instar("run", "sec", "--config", differences, "--set", "update.lr=0.5", "--out", directory)
    assert (done.code, "update.lr" in done.err) == (10, True)
