"""PID 1 of a stage container, with real processes: retries, signals, orphans, stalls, and the reason it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.errors import ConfigError, StalledError
from instar.pipelines.supervise import pid1

SUPERVISE = [sys.executable, "-m", "instar.pipelines.supervise.pid1"]
STAGE = """
import faulthandler, os, signal, sys, time
faulthandler.register(signal.SIGUSR1, all_threads=True)
def the_place_where_it_hangs():
    print("hanging", flush=True)
    time.sleep(600)
"""


class Supervised:
    """A supervisor in a session of its own, its output in files, its termination log in `reason`."""

    def __init__(
        self, folder: Path, command: list[str], *options: str, before: tuple[str, ...] = (), **env: str
    ) -> None:
        self.log, self.out, self.err = folder / "termination-log", folder / "out", folder / "err"
        self.log.touch()
        environment = {**os.environ, "INSTAR_TERMINATION_LOG": str(self.log), "OMP_NUM_THREADS": "1", **env}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*before, *SUPERVISE, *options, "--", *command],
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )

    def until(self, text: str, count: int = 1, *, err: bool = False) -> None:
        """Wait until the output holds `text` `count` times."""
        path = self.err if err else self.out
        deadline = time.monotonic() + 20
        while path.read_text().count(text) < count:
            assert time.monotonic() < deadline, (text, self.out.read_text(), self.err.read_text())
            time.sleep(0.01)

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if one is given, and return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def reason(self) -> dict[str, object]:
        """Return the one line of the termination log."""
        (line,) = self.log.read_text().splitlines()
        return dict(json.loads(line))

    def members(self) -> dict[int, str]:
        """Return pid and state of every live process of the supervisor's session."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid:
                found[int(folder.name)] = fields[0]
        return found

    def named(self, name: str) -> list[int]:
        """Return the live processes of the session that run the program `name`."""
        found = []
        for pid in self.members():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n":
                    found.append(pid)
        return found


@pytest.fixture()
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder; whatever process a failed test left is killed by its path in the environment."""
    yield tmp_path
    mark = f"INSTAR_TERMINATION_LOG={tmp_path}/".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def python(text: str) -> list[str]:
    return [sys.executable, "-c", STAGE + text]


@pytest.mark.parametrize(("code", "attempts"), [(0, 1), (1, 1), (12, 1), (75, 3), (76, 3), (137, 1)])
def test_only_transient_codes_are_tried_again(folder: Path, code: int, attempts: int) -> None:
    run = Supervised(folder, shell(f"echo try; exit {code}"), "--retries", "2", "--backoff-s", "0.05")
    assert run.end() == code
    assert run.out.read_text().count("try") == attempts
    assert (run.reason()["code"], run.reason()["attempts"]) == (code, attempts)


def test_a_second_attempt_can_succeed(folder: Path) -> None:
    run = Supervised(folder, shell(f"mkdir {folder}/seen && exit 75 || exit 0"), INSTAR_BACKOFF_S="0.05")
    assert run.end() == 0
    assert run.reason() == {"code": 0, "attempts": 2}
    assert "UnavailableError" in run.err.read_text(), "a retry must not be silent"


def test_the_reason_has_the_four_fields_and_the_class(folder: Path) -> None:
    run = Supervised(folder, [*shell("exit 15"), "a-long-argument"])
    assert run.end() == 15
    found = run.reason()
    assert {"class": "NumericsError", "expected": "exit code 0", "where": "sh -c exit 15"}.items() <= found.items()
    assert "15" in str(found["found"])
    shown = run.err.read_text()
    assert all(f"  {label}" in shown for label in ("expected:", "found:", "where:", "do:"))
    assert "a-long-argument" not in shown + run.log.read_text()


def test_a_killed_child_is_137_and_is_not_tried_again(folder: Path) -> None:
    run = Supervised(folder, shell("echo try; kill -9 $$"), "--backoff-s", "0.05")
    assert run.end() == 137
    assert run.out.read_text() == "try\n"
    assert "signal 9" in str(run.reason()["found"])


@pytest.mark.parametrize(("command", "code"), [("/nonexistent/instar", 127), ("/dev/null", 126)])
def test_a_command_that_does_not_start(folder: Path, command: str, code: int) -> None:
    assert Supervised(folder, [command]).end() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_whole_group_and_is_not_followed_by_another_attempt(
    folder: Path, number: signal.Signals
) -> None:
    grandchild = "import signal,sys,time; signal.signal(%d, lambda *_: (print('grandchild', flush=True), sys.exit())); "
    grandchild += "print('ready', flush=True); time.sleep(600)"
    text = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", {grandchild % number!r}])
def stop(*_):
    child.wait()
    sys.exit(75)
signal.signal({int(number)}, stop)
print("ready", flush=True)
time.sleep(600)
"""
    run = Supervised(folder, python(text), "--backoff-s", "0.05")
    run.until("ready", 2)
    assert run.end(number) == 75
    assert run.out.read_text().count("grandchild") == 1
    assert run.reason()["attempts"] == 1, "a stopped command must not be started again"


def test_hangup_is_passed_on_and_stops_nothing(folder: Path) -> None:
    text = "signal.signal(signal.SIGHUP, lambda *_: print('hangup', flush=True))\nprint('ready', flush=True)\n"
    run = Supervised(folder, python(text + "time.sleep(600)"))
    run.until("ready")
    run.process.send_signal(signal.SIGHUP)
    run.until("hangup")
    assert run.process.poll() is None
    assert run.end(signal.SIGTERM) == 143


def test_user_signal_asks_for_stacks_and_spares_a_grandchild_without_a_handler(folder: Path) -> None:
    text = "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    run = Supervised(folder, python(text + "the_place_where_it_hangs()"))
    run.until("hanging")
    run.process.send_signal(signal.SIGUSR1)
    run.until("the_place_where_it_hangs", err=True)
    states = run.members().values()
    assert len(states) == 3 and "Z" not in states, "supervisor, child and grandchild all live on"
    assert run.end(signal.SIGTERM) == 143


def test_a_child_that_ignores_the_stop_is_killed_after_the_grace_period(folder: Path) -> None:
    text = "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\nprint('ready', flush=True)\n"
    run = Supervised(folder, python(text + "while True: time.sleep(600)"), "--grace-s", "0.5")
    run.until("ready")
    started = time.monotonic()
    assert run.end(signal.SIGTERM) == 137
    assert time.monotonic() - started >= 0.5
    assert run.out.read_text() == "ready\nno\n"


def test_a_stop_between_two_attempts_ends_at_once(folder: Path) -> None:
    run = Supervised(folder, shell("echo try; exit 75"), "--backoff-s", "200")
    run.until("next attempt in", err=True)
    assert run.end(signal.SIGTERM) == 143
    assert run.out.read_text() == "try\n"
    assert "before attempt 2" in str(run.reason()["found"])


def test_orphans_are_collected_while_the_command_runs(folder: Path) -> None:
    orphans = "for i in 1 2 3 4 5; do sh -c 'sh -c \"exit 3\" & exit 0'; done; (echo made >&2); "
    run = Supervised(folder, shell(orphans + "sleep 600 & echo ready; wait; exit 7"))
    run.until("ready")
    deadline = time.monotonic() + 20
    while (found := run.members()) and (len(found) != 3 or "Z" in found.values() or not run.named("sleep")):
        assert time.monotonic() < deadline, f"zombies stay: {found}"
        time.sleep(0.02)
    (sleeper,) = run.named("sleep")
    os.kill(sleeper, signal.SIGTERM)
    assert run.end() == 7, "collecting orphans must not lose the command's own status"


def test_what_an_attempt_leaves_behind_is_killed_before_the_next(folder: Path) -> None:
    text = f"echo $$ >> {folder}/pids; setsid sh -c 'echo $$ >> {folder}/pids; exec sleep 600' & "
    text += f"while [ $(wc -l < {folder}/pids) != $1 ]; do :; done"
    once = f"n=$(cat {folder}/n 2>/dev/null || echo 0); n=$((n+2)); echo $n > {folder}/n; set -- $n; {text}; exit 76"
    run = Supervised(folder, shell(once), "--retries", "1", "--backoff-s", "0.05")
    assert run.end() == 76
    pids = [int(line) for line in (folder / "pids").read_text().split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_stalled_command_writes_its_stacks_and_is_tried_again(folder: Path) -> None:
    text = "the_place_where_it_hangs()"
    run = Supervised(folder, python(text), "--stall-s", "2.5", "--retries", "1", "--backoff-s", "0.05")
    assert run.end() == 76
    assert run.out.read_text().count("hanging") == 2
    assert run.err.read_text().count("in the_place_where_it_hangs") >= 2
    found = run.reason()
    assert (found["class"], found["attempts"]) == ("StalledError", 2)


def test_a_command_that_takes_the_whole_time_of_the_stage_is_not_tried_again(folder: Path) -> None:
    run = Supervised(folder, python("the_place_where_it_hangs()"), "--stage-s", "2.5", "--backoff-s", "0.05")
    assert run.end() == 76
    assert run.out.read_text().count("hanging") == 1
    assert "in the_place_where_it_hangs" in run.err.read_text()
    assert (run.reason()["class"], run.reason()["attempts"]) == ("StalledError", 1)
    assert "no time for another attempt within the 2.5 s" in run.err.read_text()


def test_the_time_of_a_stage_holds_over_all_attempts(folder: Path) -> None:
    first = f"mkdir {folder}/seen && echo try && sleep 1.5 && exit 75; echo try; exec sleep 600"
    run = Supervised(folder, shell(first), "--stage-s", "4", "--backoff-s", "0.05")
    assert run.end() == 76
    assert run.out.read_text() == "try\ntry\n"
    found = run.reason()
    within = re.search(r"an end within ([\d.]+) s", str(found["expected"]))
    assert within and float(within[1]) <= 2.5, "the second attempt has what the first one left"
    assert "of 4 s went to earlier attempts" in str(found["where"])


def test_no_pause_is_begun_that_outlasts_the_stage(folder: Path) -> None:
    run = Supervised(folder, shell("echo try; exit 75"), "--stage-s", "60", "--backoff-s", "200")
    assert run.end() == 75
    assert run.out.read_text() == "try\n"
    assert (run.reason()["class"], run.reason()["attempts"]) == ("UnavailableError", 1)


def test_the_reason_of_a_command_in_another_script_is_whole(folder: Path) -> None:
    unit = "\U0001f9ea" * 3000
    beat = f'printf \'{{"unit": "%s"}}\' {unit} > $INSTAR_HEARTBEAT; exec sleep 600'
    run = Supervised(folder, shell(f": {unit}; {beat}"), "--stall-s", "1.5", "--retries", "0")
    assert run.end() == 76
    found = run.reason()
    assert (found["code"], found["class"], found["attempts"]) == (76, "StalledError", 1)
    assert "\U0001f9ea" * 100 in str(found["where"]) and "\U0001f9ea" * 100 in str(found["found"])


@given(st.text(max_size=40), st.sampled_from(["x", "é", "漢", "\U0001f9ea", "\0", '"', "\udcff"]), st.integers(0, 3000))
def test_a_reason_of_any_length_fits_and_parses(start: str, letter: str, count: int) -> None:
    text = start + letter * count
    error = StalledError(expected=text, found=text, where=text, action=text)
    line = pid1._reason(pid1.End(code=76, again=True, error=error), 2)
    assert len(line) <= pid1.TERMINATION_BYTES and line.endswith(b"\n")
    found = json.loads(line)
    assert (found["code"], found["class"], found["attempts"]) == (76, "StalledError", 2)
    assert set(found) == {"code", "attempts", "class", "expected", "found", "where", "action"}
    if len(line) < pid1.TERMINATION_BYTES // 2:
        assert found["found"] == text.encode(errors="replace").decode(), "cut without need"


def test_a_command_that_beats_is_left_alone_and_its_last_unit_is_named(folder: Path) -> None:
    text = """
path = os.environ["INSTAR_HEARTBEAT"]
for unit in range(10):
    with open(path + ".new", "w") as stream:
        stream.write('{"unit": "rollout %d"}' % unit)
    os.replace(path + ".new", path)
    time.sleep(0.3)
print("worked", flush=True)
time.sleep(600)
"""
    run = Supervised(folder, python(text), "--stall-s", "2", "--retries", "0")
    assert run.end() == 76
    assert run.out.read_text() == "worked\n", "three seconds of work with beats outlast a limit of two"
    assert "last unit: rollout 9" in str(run.reason()["found"])


def test_a_stop_during_the_dump_of_stacks_wins(folder: Path) -> None:
    text = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nthe_place_where_it_hangs()"
    run = Supervised(folder, python(text), "--stall-s", "2.5", "--backoff-s", "0.05")
    run.until("the_place_where_it_hangs", err=True)
    assert run.end(signal.SIGTERM) == 9
    assert run.reason()["attempts"] == 1


def test_as_process_1_of_a_namespace(folder: Path) -> None:
    unshare = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to make a PID namespace here")
    text = "sh -c 'sh -c \"exit 3\" & exit 0'; echo $PPID; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    run = Supervised(folder, shell(text), before=unshare)
    run.until("ready")
    assert run.out.read_text() == "1\nready\n", "the supervisor must be process 1"
    (first,) = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    assert run.end() == 9


def test_nothing_is_written_where_there_is_no_termination_log(folder: Path) -> None:
    run = Supervised(folder, shell("exit 10"), INSTAR_TERMINATION_LOG=str(folder / "absent"))
    assert run.end() == 10
    assert not (folder / "absent").exists()
    assert "ConfigError" in run.err.read_text()


@pytest.mark.parametrize(
    ("words", "env", "text"),
    [
        ((), {}, "no command"),
        (("--retries", "-1", "--", "true"), {}, "retries"),
        (("--stall-s", "inf", "--", "true"), {}, "seconds above 0"),
        (("true",), {"INSTAR_GRACE_S": "soon"}, "grace-s"),
        (("--retry", "2", "--", "true"), {}, "--retry"),
    ],
)
def test_bad_options_are_named(words: tuple[str, ...], env: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        pid1.parse(words, env)


def test_options_come_from_the_environment_and_the_command_keeps_its_own() -> None:
    env = {"INSTAR_RETRIES": "7", "INSTAR_STALL_S": "60", "INSTAR_BACKOFF_S": "2"}
    found = pid1.parse(["--backoff-s", "1", "--", "instar", "stage", "update", "--", "--retries", "1"], env)
    assert (found.retries, found.backoff_s, found.limits.stall_s) == (7, 1.0, 60.0)
    assert found.command == ("instar", "stage", "update", "--", "--retries", "1")


@given(st.floats(0.01, 100.0), st.integers(1, 40), st.text(max_size=8))
def test_backoff_doubles_within_its_jitter_and_is_capped(first: float, attempt: int, host: str) -> None:
    whole = min(pid1.BACKOFF_CAP_S, first * 2.0 ** (attempt - 1))
    found = pid1.backoff(first, attempt, host)
    assert whole / 2 <= found <= whole
    assert found == pid1.backoff(first, attempt, host)


def test_it_imports_the_standard_library_only() -> None:
    code = """
import sys, instar.pipelines.supervise.pid1
print(*{name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - START)
"""
    code = "import sys; START = {name.partition('.')[0] for name in sys.modules}\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["instar"]
