"""Processes that end with the one that started them, however that one ends. Standard library only; on Linux alone.

The kernel kills a process that holds the line when its parent dies (PR_SET_PDEATHSIG), also by kill -9. It asks for that itself,
after it was started, so a parent that is gone by then is looked for once: a process with another parent than it was told ends.
A fork does not inherit the line, an exec keeps it. So `held` puts this file as a program in front of any command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "INSTAR_PARENT"
"""Environment variable: process id of whoever started this process."""
_PR_SET_PDEATHSIG = 1


def held(command: list[str]) -> list[str]:
    """Return the command line that runs `command` in a process that ends with this one.

    A command that cannot be started ends with 127, or 126 where it is no program, as in a shell.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def hold(parent: str | None = None) -> None:
    """Have the kernel kill this process when its parent ends, and name this process as the parent of those it starts.

    `parent` is the process id of who started this process; by default the environment says it.
    """
    expected = os.environ.get(PARENT, "") if parent is None else parent
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if expected and os.getppid() != int(expected):  # it ended before the line above
            os._exit(1)
    os.environ[PARENT] = str(os.getpid())


def main(parent: str, command: list[str]) -> int:
    """Become `command`; return the exit code where that is not possible."""
    hold(parent)
    os.environ.pop(PARENT)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and a command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 126 if isinstance(error, PermissionError) else 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
