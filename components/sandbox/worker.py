"""One process that runs a user's code: its start, its channel, its limits of time, and how its end is told.

The host sends a request with its rows and reads a line for each row. A line has to begin with the word of the request, which is new
for every request. Anything else was written by the user's code, and ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import instar
from instar.components.sandbox.code_folder import CodeFolder, empty
from instar.components.sandbox.config import SandboxConfig
from instar.errors import ProcessError

CHILD = Path(__file__).with_name("child.py")
START_S, LOAD_S, GONE_S = 60.0, 120.0, 5.0
"""Most seconds for the start of the process, for the import of a user's file, and for programs that were killed to be gone."""
MAX_ANSWER, MAX_ANSWERS, _SLICE_S = 8 << 20, 1 << 16, 0.1
_DECODE = json.JSONDecoder().raw_decode
UNPROTECTED = "INSTAR_SANDBOX"
"""Environment variable: `unprotected` runs code where the machine has no filter of system calls."""
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_PASSED = ("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ")

Serve = Mapping[str, Callable[..., Any]]
"""Name -> a function of the host that the user's code may call."""


class Ended(Exception):
    """The process is gone. `reason` says why, in words for the score of a row."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Worker:
    """A process that has given up what it does not need, and answers requests."""

    def __init__(self, folder: CodeFolder, config: SandboxConfig) -> None:
        self.folder, self.config, self.owner = folder, config, os.getpid()
        self.loaded: set[str] = set()
        self.answered = 0
        """How many rows this process has answered. A fault of its first row cannot come from another row."""
        self._part, self._lines = b"", deque[str]()
        empty(folder.work)
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._channel.settimeout(_SLICE_S)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-s", str(CHILD), str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(folder.work),
                cwd=folder.work,
                start_new_session=True,
            )
        self._start()

    def _start(self) -> None:
        settings = {
            "code": str(self.folder.code),
            "work": str(self.folder.work),
            "sites": self.folder.sites,
            "readable": [str(self.folder.code), str(self.folder.images), *self.folder.sites, *_own_folders()],
            "unprotected": os.environ.get(UNPROTECTED) == "unprotected",
            "allow": self.config.allow,
            **{name: getattr(self.config, name) for name in ("call_s", "cpu_s", "memory_mb", "file_mb", "print_kb")},
        }
        try:
            self._write(json.dumps(settings).encode() + b"\n")
            state = json.loads(self._line(START_S))
        except (Ended, ValueError) as error:
            self.end()
            raise _not_started(str(error)) from None
        if "error" in state:
            self.end()
            raise _not_started(state["error"])

    def ask(
        self, request: Mapping[str, Any], rows: Sequence[str], serve: Serve, limit_s: float
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Send a request and yield the answers, one per row. Raises `Ended` when the process is gone.

        Between two answers at most `limit_s` seconds may pass. The time in which the host serves a call does not count.
        """
        word = secrets.token_hex(8)
        head = json.dumps({**request, "word": word, "rows": len(rows)})
        self._write("\n".join([head, *rows, ""]).encode("ascii"))
        remaining = max(1, len(rows))
        while remaining:
            about, answer = self._answer(word, limit_s)
            if about == "call":
                self._write(_served(answer, serve))
                continue
            remaining -= 1
            yield about, answer

    def _answer(self, word: str, limit_s: float) -> tuple[str, dict[str, Any]]:
        line = self._lines.popleft() if self._lines else self._line(limit_s)
        try:
            said, about, text = line.split(" ", 2)
            answer = _DECODE(text)[0]
        except ValueError:
            said, about, answer = "", "", None
        if said != word or not isinstance(answer, dict):
            self.end()
            raise Ended("the code wrote to the channel of the results")
        return about, answer

    def _line(self, limit_s: float) -> str:
        """Return the next line. Raises `Ended` at the end of the process, at a limit of time or size, and for a flood."""
        deadline = time.monotonic() + limit_s
        while not self._lines:
            try:
                part = self._channel.recv(1 << 18)
            except TimeoutError:
                self._check(limit_s, deadline)
                continue
            except OSError:
                part = b""
            if not part:
                raise Ended(self._why())
            *lines, self._part = (self._part + part).split(b"\n")
            self._lines.extend(line.decode("ascii", "replace") for line in lines)
            if len(self._part) > MAX_ANSWER or len(self._lines) > MAX_ANSWERS:
                self.end()
                raise Ended("the code wrote to the channel of the results")
        return self._lines.popleft()

    def _check(self, limit_s: float, deadline: float) -> None:
        if self.process.poll() is not None:
            raise Ended(self._why())
        if folder_bytes(self.folder.work) > self.config.file_mb << 20:
            self.end()
            raise Ended(f"more than {self.config.file_mb} MiB in its folder")
        if time.monotonic() > deadline:
            self.end()
            raise Ended(f"no end within {limit_s:g} s")

    def _why(self) -> str:
        """Return in words how the process has ended. Whatever it started ends with it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        code = self.process.returncode
        self.end()
        if code is None:
            return "the code closed the channel of the results"
        number = -code if code < 0 else code - 128 if "processes" in self.config.allow else 0
        if number == signal.SIGPROF:
            return f"more than {self.config.cpu_s:g} s of processor time"
        if number > 0:
            return f"the process was ended by {signal.Signals(number).name}, perhaps by itself or for want of memory"
        return f"the process ended itself with code {code}"

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        deadline = time.monotonic() + START_S
        while view:
            try:
                view = view[self._channel.send(view) :]
            except TimeoutError:
                self._check(START_S, deadline)
            except OSError:
                raise Ended(self._why()) from None

    @property
    def alive(self) -> bool:
        """Whether the process runs and belongs to this process, which may be a fork of the one that started it."""
        return self.owner == os.getpid() and self.process.poll() is None

    def end(self) -> None:
        """End the process and everything that it started."""
        self._channel.close()
        if self.owner == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                deadline = time.monotonic() + GONE_S
                while "processes" in self.config.allow and time.monotonic() < deadline:
                    os.killpg(self.process.pid, 0)  # raises when nothing is left of the group
                    time.sleep(0.005)
            self.process.wait()


def environment(home: Path) -> dict[str, str]:
    """Return the environment of the process. It holds nothing of this process's environment but paths and the time zone."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    return {**passed, **dict.fromkeys(_THREADS, "1"), **own}


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder. What disappears meanwhile does not count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 (called often while code runs)
    return total


def _own_folders() -> list[str]:
    """Return the folders of this package, which in a checkout are links to folders elsewhere."""
    package = Path(instar.__file__).parent
    return sorted({str(folder.resolve()) for folder in (package, *package.iterdir()) if folder.is_dir()})


def _served(call: Mapping[str, Any], serve: Serve) -> bytes:
    """Return the line with the value of a function of the host, or with its error."""
    try:
        if call["name"] not in serve:
            raise LookupError(f"no function {call['name']}; there is {', '.join(serve)}")
        reply: dict[str, Any] = {"value": serve[call["name"]](*call["args"], **call["keywords"])}
        return json.dumps(reply).encode("ascii") + b"\n"
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode("ascii") + b"\n"


def _not_started(reason: str) -> ProcessError:
    return ProcessError(
        expected="a process that can be kept from files, network and other processes",
        found=reason,
        where="sandbox",
        action="run on Linux with seccomp (see `instar doctor`), or set INSTAR_SANDBOX=unprotected to have limits only",
    )
