"""Processes that end when their parent ends, however the parent ends. Linux only; standard library only.

A process asks the kernel to kill it when its parent dies (PR_SET_PDEATHSIG). This works even if the parent dies by kill -9.
The parent may die before the process has asked. So the process then compares its parent with the process id that it was told,
and exits if they differ.
A fork does not inherit this request, but an exec keeps it. So `held` runs this file as a program that then becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "INSTAR_PARENT"
"""Environment variable: the id of the process that started this one."""
_PR_SET_PDEATHSIG = 1


def held(command: list[str]) -> list[str]:
    """Return the command line that runs `command` in a process that ends when this process ends.

    The exit code of a command that cannot be started is 127, or 126 if the permission is missing, as in a shell.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def hold(parent: str | None = None) -> None:
    """Have the kernel kill this process when its parent ends, and set `PARENT` for the processes that this one starts.

    `parent` is the id of the process that started this one. By default it is read from `PARENT`.
    """
    expected = os.environ.get(PARENT, "") if parent is None else parent
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if expected and os.getppid() != int(expected):  # the parent ended before the line above
            os._exit(1)
    os.environ[PARENT] = str(os.getpid())


def main(parent: str, command: list[str]) -> int:
    """Replace this process by `command`. Return an exit code if the command cannot be started."""
    hold(parent)
    os.environ.pop(PARENT)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and the command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 126 if isinstance(error, PermissionError) else 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
