"""The outermost border: however a command ends, it is an exit code of docs/errors.md and, if not well, four lines.

A named error is printed. A refusal of the file system that no store named is a `StorageError` here. What is left is a fault of
instar itself: an `InternalError`, whose traceback is kept in a file, and printed too where INSTAR_TRACEBACK is set (containers,
whose files go away with them, set it).
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from instar import terminal
from instar.errors import InstarError, InternalError, StorageError

REPORT = "https://github.com/instar-ml/instar/issues"
SHOW = "INSTAR_TRACEBACK"
PIPE_CLOSED, INTERRUPTED = 128 + 13, 128 + 2
"""Exit codes when nobody reads standard output any more, and after Ctrl-C: those of the signals, as a shell knows them."""


def ended(command: Callable[[], Any]) -> int:
    """Run a command to its end; return its exit code."""
    terminal.prepare()
    try:
        code = _code(command)
        terminal.settle()
        return code
    except terminal.OutputError as error:
        terminal.give_up()
        return PIPE_CLOSED if error.errno == errno.EPIPE else _told(_output(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _told(named(error))


def named(error: Exception) -> InstarError:
    """Return the named error of any exception: itself, a refusal of the file system, or a fault of instar."""
    from instar.store_files import refusal

    return error if isinstance(error, InstarError) else refusal(error, missing=True) or _internal(error)


def _code(command: Callable[[], Any]) -> int:
    try:
        return int(command() or 0)
    except SystemExit as end:
        if isinstance(end.code, str):
            terminal.warn(f"{end.code}\n")
            return 1
        return end.code or 0


def _told(error: InstarError) -> int:
    terminal.warn(error.render() + "\n")
    return error.exit_code


def _output(error: terminal.OutputError) -> StorageError:
    return StorageError(
        expected="standard output that takes what is printed",
        found=str(error),
        where="standard output",
        action="free space where it goes, or send it elsewhere; what was committed before stays",
    )


def _internal(error: Exception) -> InternalError:
    """Return the error of a fault in instar, and keep its traceback."""
    text = "".join(traceback.format_exception(error))
    last = traceback.extract_tb(error.__traceback__)[-1]
    if os.environ.get(SHOW):
        terminal.warn(text)
    return InternalError(
        expected="instar to foresee this",
        found=f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})",
        where=_kept(text),
        action=f"report it with that traceback at {REPORT}",
    )


def _kept(text: str) -> str:
    """Write a traceback to a file of its own and return where; print it when no file can be written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="instar-", suffix=".traceback")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError:
        terminal.warn(text)
        return "the traceback above"
    return path
