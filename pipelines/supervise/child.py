"""One attempt of a supervised command: a process group that gets signals, is watched, and leaves no process behind.

All signals of `SIGNALS` are blocked, and `sigtimedwait` takes them one at a time. So no code runs inside a signal handler, and a
signal waits until it is taken, whenever it comes. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import time
from pathlib import Path

from instar import lifeline
from instar.errors import StalledError
from instar.limits import Limits, Watch

STOP = (signal.SIGTERM, signal.SIGINT)
SIGNALS = {*STOP, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}
STACKS_S, CLEAR_S = 1.0, 5.0
"""Seconds between the request for stacks and SIGTERM, and the longest wait until leftover processes have died."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Block the signals of `SIGNALS`. Become the parent of orphaned descendants, which PID 1 always is."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Child:
    """A running command. `run` returns its exit code. `stopped` and `stalled` say whether a signal or a limit ended it."""

    def __init__(self, command: tuple[str, ...], heartbeat: Path, limits: Limits, grace_s: float, where: str) -> None:
        env = {**os.environ, "INSTAR_HEARTBEAT": str(heartbeat), "INSTAR_TRACEBACK": "1"}
        words = lifeline.held([_program(command[0]), *command[1:]])
        self.pid = os.posix_spawn(words[0], words, env, setpgroup=0, setsigmask=[])
        self.limits, self.grace_s = limits, grace_s
        self.watch = Watch(heartbeat, limits, where)
        self.stopped = 0
        """The first signal of `STOP` that came from outside; 0 if none came."""
        self.stalled: StalledError | None = None
        self._code: int | None = None
        self._plan: list[tuple[float, signal.Signals]] = []

    def run(self) -> int:
        """Wait for the end and return the exit code. It is 128+n if signal n ended the command."""
        while self._code is None:
            self._carry_out()
            info = signal.sigtimedwait(SIGNALS, self._patience())
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._pass_on(signal.Signals(info.si_signo))
            self._reap()
            if self._code is None and not self.stopped and self.stalled is None:
                self._check()
        self._clear()
        return self._code

    def _patience(self) -> float:
        due = min((at for at, _ in self._plan), default=float("inf"))
        return max(0.0, min(self.limits.poll_s, due - time.monotonic()))

    def _pass_on(self, number: signal.Signals) -> None:
        """Send a signal to the command. The first signal of `STOP` starts the grace period and replaces any other plan."""
        self._send(number)
        if number in STOP and not self.stopped:
            self.stopped = int(number)
            self._plan = [(time.monotonic() + self.grace_s, signal.SIGKILL)]

    def _check(self) -> None:
        self.stalled = self.watch.overdue()
        if self.stalled is not None:
            now = time.monotonic()
            self._plan = [(now, signal.SIGUSR1), (now + STACKS_S, signal.SIGTERM)]
            self._plan.append((now + STACKS_S + self.grace_s, signal.SIGKILL))

    def _carry_out(self) -> None:
        now = time.monotonic()
        due = [number for at, number in self._plan if at <= now]
        self._plan = self._plan[len(due) :]
        for number in due:
            self._send(number)

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the group. SIGUSR1 asks for stacks and goes to the child alone, because it would end other processes."""
        with contextlib.suppress(ProcessLookupError):
            (os.kill if number == signal.SIGUSR1 else os.killpg)(self.pid, number)

    def _reap(self) -> bool:
        """Reap every process that has ended. Return whether any is left."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    self._code = 128 - code if code < 0 else code
            return True
        return False

    def _clear(self) -> None:
        """Kill what the command left behind, so that the next attempt starts alone."""
        deadline = time.monotonic() + CLEAR_S
        self._send(signal.SIGKILL)
        while self._reap() and time.monotonic() < deadline:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)


def _program(name: str) -> str:
    """Return the path of a program. Raises `OSError` if there is no file of that name, or if it cannot be executed."""
    path = shutil.which(name)
    if path is None:
        kind = PermissionError if Path(name).exists() else FileNotFoundError
        number = errno.EACCES if kind is PermissionError else errno.ENOENT
        raise kind(number, os.strerror(number), name)
    return path


def pause(seconds: float) -> int:
    """Wait for `seconds` and return 0. If a signal of `STOP` comes, return its number at once."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        info = signal.sigtimedwait(SIGNALS, left)
        if info is not None and info.si_signo in STOP:
            return info.si_signo
    return 0


def _children() -> list[int]:
    """Return the direct children of this process, including adopted orphans. The list is empty if the kernel does not show them."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []
