"""Row 4, hangs with no message: a silent stage is stopped by its deadline, named, and its stacks are kept."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from instar.errors import InstarError, NumericsError, StalledError
from instar.heartbeat import Heartbeat
from instar.limits import Limits
from instar.pipelines.supervise import watchdog

HANG = """
import faulthandler, signal, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
def the_place_where_it_hangs():
    time.sleep(600)
the_place_where_it_hangs()
"""


def spawn(code: str, log: Path) -> int:
    """Run `code` under the supervisor's wait, as `run_stage` does."""
    import subprocess

    with log.open("wb") as stream:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=stream, stderr=stream, start_new_session=True)
        try:
            return watchdog.wait(
                child, "rollout", log.with_name("heartbeat.json"), Limits(stage_s=60, stall_s=1.5, poll_s=0.05)
            )
        finally:
            watchdog.kill(child)


def test_a_silent_stage_is_stopped_and_its_stacks_are_kept(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StalledError, match="silence") as caught:
        spawn(HANG, tmp_path / "stage.log")
    assert time.monotonic() - started < 20
    assert caught.value.transient
    assert "the_place_where_it_hangs" in (tmp_path / "stage.log").read_text()


def test_a_stage_that_beats_is_not_stopped(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    code = (
        f"import pathlib, time\nfor i in range(8):\n    pathlib.Path({str(path)!r}).write_text('{{}}'); time.sleep(0.4)"
    )
    assert spawn(code, tmp_path / "stage.log") == 0


def test_the_error_names_the_last_unit(tmp_path: Path) -> None:
    Heartbeat(tmp_path / "heartbeat.json", "rollout", lambda unit, metrics: None)("512 rollouts", {})
    with pytest.raises(StalledError, match="512 rollouts"):
        spawn(HANG, tmp_path / "stage.log")


def test_a_named_error_keeps_its_class_across_the_process_border(tmp_path: Path) -> None:
    import json

    result = tmp_path / "done.json"
    fields = {"expected": "a finite loss", "found": "nan", "where": "update", "action": "lower lr"}
    result.write_text(json.dumps({"error": {"class": "NumericsError", **fields}}))
    error = watchdog.child_error(result, "update", 15, tmp_path / "stage.log")
    assert isinstance(error, NumericsError)
    assert (error.found, error.exit_code) == ("nan", 15)


def test_a_child_that_dies_without_a_word_is_named(tmp_path: Path) -> None:
    log = tmp_path / "stage.log"
    log.write_text("Killed\n")
    error: InstarError = watchdog.child_error(tmp_path / "none.json", "update", -9, log)
    assert isinstance(error, StalledError)
    assert "killed by signal 9 (SIGKILL)" in error.found and error.found.endswith("; Killed")
