"""Row 35, a runner is killed and its stage goes on: it holds the cores that the resume needs, and beats for another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from instar import lifeline

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux holds the line")

RUNNER = """
import pathlib, sys
from instar.cli.commands import evolve_in
from instar.pipelines.recipes import build
evolve_in(build("sec", "tiny"), pathlib.Path(sys.argv[1]), mode="subprocess", tracking="off")
"""


def marked(mark: str) -> list[int]:
    """Return the live processes with `mark` among their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and mark.encode() in words:
            found.append(int(entry.name))
    return found


def until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_its_runner(tmp_path: Path, number: signal.Signals) -> None:
    """Planted: the stage went on as a child of process 1, and wrote the heartbeat that the resume watched."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])
    try:
        until(lambda: len(marked(f"{tmp_path}/store")) == 1)
        stage = marked(f"{tmp_path}/store")
        if number == signal.SIGTERM:  # the other one is hit while its stage starts
            until((tmp_path / "heartbeat.json").exists)
    finally:
        runner.send_signal(number)
        runner.wait()
    until(lambda: not marked(f"{tmp_path}/store"), 5.0)
    assert len(stage) == 1 and runner.returncode == -number


@pytest.mark.parametrize("wait_s", [0.0, 0.005, 0.01, 0.02, 0.04])
def test_no_moment_of_the_start_is_left_out(tmp_path: Path, wait_s: float) -> None:
    """The parent is gone before the child has asked the kernel, while it asks, or after it has become another program."""
    program = (
        "import os, subprocess, sys, time; from instar import lifeline\n"
        "subprocess.Popen(lifeline.held([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]]))\n"
        "time.sleep(float(sys.argv[2])); os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), str(wait_s)], check=True)
    until(lambda: not marked(str(tmp_path)), 5.0)


def test_a_supervisor_that_is_killed_leaves_no_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)", str(tmp_path)]
    supervisor = subprocess.Popen([sys.executable, "-m", "instar", "supervise", "--", *command], start_new_session=True)
    until(lambda: len(marked(str(tmp_path))) == 2)
    time.sleep(0.1)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not marked(str(tmp_path)), 5.0)


def test_a_held_command_is_the_command() -> None:
    """Its arguments, environment, exit code and default signals are its own."""
    text = "import os, signal, sys; print(sys.argv[1:], os.environ['A'], 'INSTAR_PARENT' in os.environ)"
    done = subprocess.run(
        lifeline.held([sys.executable, "-c", f"{text}; sys.exit(7)", "--x", "y z"]),
        capture_output=True,
        text=True,
        env={**os.environ, "A": "b"},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("['--x', 'y z'] b False\n", 7)
    piped = subprocess.run(lifeline.held(["sh", "-c", "kill -PIPE $$"]), check=False)
    assert piped.returncode == -signal.SIGPIPE
    codes = [
        subprocess.run(lifeline.held([word]), stderr=subprocess.PIPE, check=False) for word in ("/none", "/dev/null")
    ]
    assert [done.returncode for done in codes] == [127, 126] and b"/none: No such file" in codes[0].stderr
