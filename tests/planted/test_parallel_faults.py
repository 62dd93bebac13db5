"""Processes of one update that die, hang or fall silent: a named error within the deadline, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from instar.components.update.config import PolicyGradientConfig
from instar.components.update.parallel import gang
from instar.contract import Context
from instar.errors import InstarError, NumericsError, StalledError
from support.parallel_cases import Case, job, search_path, world

DEADLINE_S = 2.0


@pytest.fixture(autouse=True)
def _import_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", search_path())


def _fail(folder: Path, description: dict[str, Any], deadline_s: float = DEADLINE_S) -> InstarError:
    (folder / "job.json").write_text(json.dumps(description))
    ctx = Context(evolution="test", step=0, stage="update", scratch=folder)
    with pytest.raises(InstarError) as caught:
        gang.run(folder, 2, deadline_s, ctx, "support.parallel_faults")
    assert not _alive(folder)
    return caught.value


def _alive(folder: Path) -> list[int]:
    """Return the processes of the run that still exist and are no zombies."""
    pids = [int(file.read_text()) for file in folder.glob("pid-*")]
    assert len(pids) == 2
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.slow  # one that is killed while it waits is named below
def test_a_process_that_is_killed_ends_all_and_is_named(tmp_path: Path) -> None:
    error = _fail(tmp_path, {"fault": "killed"})
    assert isinstance(error, StalledError)
    assert "process 1 ended by signal 9 after 'pass 7'" in error.found


def test_a_process_that_never_comes_to_a_collective_is_named_with_its_stack(tmp_path: Path) -> None:
    error = _fail(tmp_path, {"fault": "hung", "timeout_s": DEADLINE_S})
    assert isinstance(error, StalledError)
    assert "process 1 silent since 'pass 7'" in error.found and "stuck_here" in error.found
    assert "process 0" not in error.found


def test_processes_outside_of_any_collective_that_fall_silent_are_ended_with_their_stacks(tmp_path: Path) -> None:
    error = _fail(tmp_path, {"fault": "silent"})
    assert isinstance(error, StalledError)
    assert "silent since 'pass 7'" in error.found and "stuck_here" in error.found


def test_a_bad_number_in_one_process_stops_all_and_saves_its_batch(tmp_path: Path) -> None:
    config = Case(prompts=4).config()
    assert isinstance(config, PolicyGradientConfig)
    described = job(world(tmp_path, Case(prompts=4)), config, tmp_path / "update")
    error = _fail(tmp_path, {"fault": "nan", **described}, 60.0)
    assert isinstance(error, NumericsError) and "nan" in error.found
    saved = Path(error.action.rpartition("batch saved in ")[2])
    assert (saved / "rollouts.parquet").is_file()
    assert not (tmp_path / "update" / "policy" / "model.safetensors").exists()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"fault": "silent"}))
    program = (
        "import sys, pathlib; from instar.contract import Context; from instar.components.update.parallel import gang\n"
        "folder = pathlib.Path(sys.argv[1]); ctx = Context(evolution='t', step=0, stage='update', scratch=folder)\n"
        "gang.run(folder, 2, 600.0, ctx, 'support.parallel_faults')\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    try:
        _until(lambda: len(list(tmp_path.glob("rank-*.json"))) == 2, 120.0)
        assert len(_alive(tmp_path)) == 2
    finally:
        os.kill(caller.pid, signal.SIGKILL)
        caller.wait()
    _until(lambda: not _alive(tmp_path), 20.0)


def _waiting(folder: Path) -> gang.Gang:
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"fault": "waiting"}))
    return gang.Gang(folder, 2, DEADLINE_S, "support.parallel_faults")


def test_a_process_that_is_killed_while_it_waits_is_named_at_the_next_step(tmp_path: Path) -> None:
    """Longer silence than the deadline is no fault between two steps. The next segment works; one that fails elsewhere
    drops what is resident, and with it its processes."""
    made, ctx = _waiting(tmp_path / "a"), Context(evolution="test", step=0, stage="update", scratch=tmp_path)
    first = made.work({}, False, ctx)
    time.sleep(gang.SLACK * DEADLINE_S + 0.5)
    assert made.work({}, False, ctx) == first  # the same process
    victim = int((tmp_path / "a" / "pid-1").read_text())
    os.kill(victim, signal.SIGKILL)
    _until(lambda: not made.running(), 20.0)
    with pytest.raises(StalledError, match="process 1 ended by signal 9"):
        made.work({}, False, ctx)
    assert not _alive(tmp_path / "a") and not made.running()
    again = _waiting(tmp_path / "b")
    assert again.work({}, False, ctx)["pid"] == int((tmp_path / "b" / "pid-0").read_text())
    assert len(_alive(tmp_path / "b")) == 2
    del again
    assert not _alive(tmp_path / "b")


def _until(reached: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)
