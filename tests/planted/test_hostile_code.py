"""Plants code that breaks, hangs, cheats or attacks in the place of a reward function. Half a minute.

Each fault has to be a fault of its own row: the row before it and the row after it are scored right, and no process is left.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.components.sandbox import confine
from instar.components.sandbox.sandbox import Fault, Sandbox
from support.brought import SHORT, brought

REWARD = """
import os, sys, time, json, threading
HELD = threading.Lock()
HOARD = []

def reward(answer, reference):
    if answer.startswith("attack"):
        return attack(*map(int, answer.split()[1:]))
    with HELD:
        return answer == reference

"""
NEEDS_FILTER = pytest.mark.skipif(
    not confine.protections()["system calls are filtered (seccomp)"],
    reason="this machine has no filter of system calls",
)
NEEDS_LANDLOCK = pytest.mark.skipif(confine.landlock_version() < 3, reason="this machine has no rules for files")
FAULTS = {
    "loops in Python": ("while True: pass", "processor time"),
    "loops in C": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", "processor time"),
    "sleeps": ("time.sleep(60)", "no end within 1 s"),
    "deadlocks": ("HELD.acquire(); HELD.acquire()", "no end within 1 s"),
    "hogs memory": ("return len(bytearray(1 << 40))", "MemoryError"),
    "hoards memory": ("while True: HOARD.append(bytearray(1 << 24))", "MemoryError"),
    "forks": ("while True: os.fork()", "PermissionError"),
    "starts a program": ("import subprocess; subprocess.run(['true'])", "PermissionError"),
    "prints a gigabyte": ("while True: print('x' * 10000)", "more than 8 KiB printed"),
    "prints and hides it": (
        "\n    try:\n        print('x' * 10000)\n    except BaseException:\n        return True",
        "more than 8 KiB printed",
    ),
    "kills its parent": ("os.kill(os.getppid(), 9)", "PermissionError"),
    "kills everybody": ("os.kill(-1, 9)", "PermissionError"),
    "kills its group": ("os.killpg(0, 9)", "PermissionError"),
    "kills itself": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "replaces builtins": ("import builtins; builtins.len = builtins.str = None; return 1", "ended itself"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "ends with code 0": ("os._exit(0)", "ended itself with code 0"),
    "leaves": ("sys.exit(0)", "SystemExit"),
    "recurses": ("\n    def again(): return again()\n    return again()", "RecursionError"),
    "raises what is no Exception": ("raise BaseException('out')", "BaseException: out"),
    "raises what cannot be printed": (
        "\n    class E(Exception):\n        def __str__(self): raise ValueError\n    raise E",
        "E",
    ),
    "opens a socket": ("import socket; socket.create_connection(('127.0.0.1', 80))", "PermissionError"),
    "opens a unix socket": ("import socket; socket.socket(socket.AF_UNIX)", "PermissionError"),
    "returns a text": ("return object()", "cannot be written as JSON"),
    "returns a complex number": ("return 1 + 2j", "cannot be written as JSON"),
    "returns a huge number": ("return 10 ** 10000", "cannot be written as JSON"),
    "returns a huge text": ("return 'x' * (5 << 20)", "characters, more than"),
    "returns itself": ("\n    a = []\n    a.append(a)\n    return a", "cannot be written as JSON"),
    "writes to every descriptor": (
        "\n    for fd in range(3, 256):\n        try: os.write(fd, b'word 1 {\"value\": 1.0}\\n')\n        except OSError: pass",
        "channel of the results",
    ),
    "floods the channel": (
        "\n    for fd in range(3, 256):\n        try:\n"
        "            while True: os.write(fd, b'x' * 65536)\n        except OSError: pass",
        "channel of the results",
    ),
    "closes every descriptor": ("os.closerange(0, 256)", "ended"),
    "reads the answers to come": (
        "\n    for fd in range(3, 256):\n        try: os.read(fd, 1 << 20)\n        except OSError: pass",
        "no end",
    ),
    "fills its folder with one file": ("open('big', 'wb').write(bytes(2 << 20))", "OSError"),
    "fills its folder with many files": (
        "\n    for n in range(10**9):\n        open(str(n), 'wb').write(bytes(1 << 18))\n        time.sleep(0.01)",
        "MiB in its folder",
    ),
    "attaches to its parent": (
        "\n    import ctypes\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        "    assert libc.ptrace(16, os.getppid(), 0, 0) == 0",
        "AssertionError",
    ),
    "lifts its own limits": ("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))", "Error"),
}


RIGHT, WRONG = {"answer": "3", "reference": "3"}, {"answer": "4", "reference": "3"}


def attacked(tmp_path: Path, attack: str, **limits: Any) -> tuple[list[Any], Sandbox]:
    """Score a right row, the attack, and a right row and a wrong one after it."""
    code = brought(tmp_path / "code", f"{REWARD}def attack():\n    {attack}\n")
    sandbox = Sandbox(code, dataclasses.replace(SHORT, **limits))
    return sandbox.calls("rew.py:reward", [RIGHT, {"answer": "attack", "reference": ""}, RIGHT, WRONG]), sandbox


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Attack -> what it gave, and what the right row and the wrong row after it gave. Two sandboxes run all attacks."""
    results: dict[str, list[Any]] = {}
    for waits, call_s in ((True, 1.0), (False, 30.0)):
        names = [name for name, (_, reason) in FAULTS.items() if ("no end" in reason) is waits]
        text = "".join(f"def attack{n}():\n    {FAULTS[name][0]}\n" for n, name in enumerate(names))
        code = brought(
            tmp_path_factory.mktemp("code"), f"{REWARD}{text}def attack(n): return globals()[f'attack{{n}}']()\n"
        )
        rows = [row for n in range(len(names)) for row in ({"answer": f"attack {n}", "reference": ""}, RIGHT, WRONG)]
        with Sandbox(code, dataclasses.replace(SHORT, call_s=call_s)) as sandbox:
            values = sandbox.calls("rew.py:reward", rows)
            assert list(sandbox._folder.work.iterdir()) == []
        assert not sandbox._folder.root.exists()
        results |= {name: values[3 * n : 3 * n + 3] for n, name in enumerate(names)}
    assert not processes(os.getpid())
    return results


def processes(host: int) -> list[str]:
    """Return the processes that run a sandbox of this host. Its number is the last word of their command."""
    return [line for line in commands() if "sandbox/child.py" in line and line.split()[-1] == str(host)]


def commands() -> list[str]:
    """Return the commands of all processes that have not ended."""
    out = subprocess.run(["ps", "-ewwo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [line.partition(" ")[2] for line in out.splitlines() if not line.startswith("Z")]


@NEEDS_FILTER
@pytest.mark.parametrize("attack", FAULTS)
def test_a_fault_stays_in_its_row(faults: dict[str, list[Any]], attack: str) -> None:
    result, *after = faults[attack]
    assert isinstance(result, Fault) and FAULTS[attack][1] in result.reason, result
    assert after == [True, False]


HARMLESS = {
    "replaces json": "json.dumps = json.loads = None; json.encoder.c_make_encoder = None; return 1",
    "replaces os": "os.stat = os.chdir = os.write = None; return 1",
    "replaces the streams": "sys.stdout = None; sys.__stdout__ = None; return 1",
    "changes the environment": "os.environ.clear(); os.environ['A'] = 'b'; return 1",
    "changes the folder": "os.mkdir('sub'); os.chdir('sub'); return 1",
    "leaves a folder behind": "os.makedirs('a/b'); open('a/b/c', 'w').write('x'); os.chmod('a', 0); return 1",
    "changes what is imported": "sys.modules.clear(); sys.path.clear(); return 1",
    "catches the signal of its limit": "import signal; signal.signal(signal.SIGPROF, signal.SIG_IGN); return 1",
    "leaves a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); return 1",
    "leaves a busy thread": "threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start(); return 1",
    "leaves a thread that is waited for": "threading.Thread(target=time.sleep, args=(60,)).start(); return 1",
    "holds a lock for ever": "HELD.acquire(); return 1",
    "asks for an end later": "import signal; signal.alarm(1); return 1",
    "exits at the end": "import atexit; atexit.register(time.sleep, 60); return 1",
    "writes to stdout itself": "os.write(1, b'x' * (1 << 20)); os.write(2, b'x'); return 1",
}


@NEEDS_FILTER
@pytest.mark.parametrize("attack", HARMLESS)
def test_what_a_row_leaves_behind_does_not_reach_the_next_one(tmp_path: Path, attack: str) -> None:
    results, sandbox = attacked(tmp_path, HARMLESS[attack], call_s=1.0 if "lock" in attack else 30.0)
    with sandbox:
        assert results == [True, 1, True, False]


def test_numbers_that_are_no_scores_stay_recognisable(tmp_path: Path) -> None:
    for value, check in (("float('nan')", math.isnan), ("float('inf')", math.isinf), ("-float('inf')", math.isinf)):
        results, sandbox = attacked(tmp_path / value, f"return {value}")
        with sandbox:
            assert check(results[1]) and results[2:] == [True, False]


@NEEDS_LANDLOCK
def test_files_outside_are_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("password")
    target.write_text("precious")
    target.chmod(0o644)
    monkeypatch.setenv("API_KEY", "password")
    attacks = {
        "reads": (f"return open({str(secret)!r}).read()", "PermissionError"),
        "writes": (f"open({str(tmp_path / 'new')!r}, 'w')", "PermissionError"),
        "cuts": (f"os.truncate({str(target)!r}, 0)", "PermissionError"),
        "removes": (f"os.unlink({str(target)!r})", "PermissionError"),
        "moves": (f"os.rename({str(target)!r}, 'here')", "Error"),
        "changes its code": ("open(__file__, 'w')", "PermissionError"),
        "lists homes": ("return os.listdir(os.path.expanduser('~root'))", "PermissionError"),
        "reads the parent's environment": ("return open(f'/proc/{os.getppid()}/environ').read()", "PermissionError"),
        "reads the parent's memory": ("return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)", "PermissionError"),
    }
    for name, (text, reason) in attacks.items():
        results, sandbox = attacked(tmp_path / name, text)
        with sandbox:
            assert isinstance(results[1], Fault) and reason in results[1].reason, (name, results[1])
    results, sandbox = attacked(tmp_path / "modes", f"os.chmod({str(target)!r}, 0); return dict(os.environ)")
    with sandbox:
        assert "API_KEY" not in results[1] and "password" not in str(results[1])
    assert target.read_text() == "precious" and target.stat().st_mode & 0o777 == 0o644


@NEEDS_FILTER
def test_programs_that_were_started_end_with_the_sandbox(tmp_path: Path) -> None:
    attack = """
    import subprocess
    for command in (['sleep', '600.25'], ['sh', '-c', 'setsid nohup sleep 600.25 & sleep 0.1']):
        process = subprocess.Popen(command, start_new_session=True)
    return process.wait()"""
    results, sandbox = attacked(tmp_path, attack, allow=("processes",), cpu_s=1.0, call_s=10.0)
    with sandbox:
        assert results == [True, 0, True, False]
        assert running("sleep 600.25")
    assert not running("sleep 600.25")


@NEEDS_FILTER
@pytest.mark.parametrize("attack", ["os._exit(3)", "while True: pass", "os.kill(os.getpid(), 9)"])
def test_programs_end_with_the_process_that_started_them(tmp_path: Path, attack: str) -> None:
    text = f"\n    import subprocess\n    subprocess.Popen(['sleep', '600.5'])\n    {attack}"
    results, sandbox = attacked(tmp_path, text, allow=("processes",))
    with sandbox:
        assert isinstance(results[1], Fault) and results[2:] == [True, False]
        assert not running("sleep 600.5")


@NEEDS_FILTER
def test_nothing_outlives_a_host_that_is_killed(tmp_path: Path) -> None:
    code = brought(tmp_path / "code", "import subprocess, time\ndef f(a):\n    subprocess.run(['sleep', '600.75'])\n")
    script = (
        "import sys; from pathlib import Path; from instar.artifact import Code\n"
        "from instar.components.sandbox.config import SandboxConfig\n"
        "from instar.components.sandbox.sandbox import Sandbox\n"
        "config = SandboxConfig(allow=('processes',), call_s=600)\n"
        f"Sandbox(Code(Path({str(code.path)!r}), 'd'), config).calls('rew.py:f', [{{'a': 1}}])\n"
    )
    host = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)})
    wait_for(lambda: running("sleep 600.75"))
    assert len(processes(host.pid)) == 2
    host.send_signal(signal.SIGKILL)
    host.wait()
    wait_for(lambda: not running("sleep 600.75") and not processes(host.pid))


def running(command: str) -> bool:
    return any(command in line for line in commands())


def wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "not within the limit"
        time.sleep(0.05)
