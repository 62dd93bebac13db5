"""The outermost layer of every command: it turns each way to end into an exit code of docs/errors.md.

A command that fails also prints one error with its four fields.
1. An error of `instar.errors` is printed as it is.
2. The file system refused something outside of a store, for example because the disk is full: this becomes a `StorageError`.
3. Any other exception is a fault of instar itself: it becomes an `InternalError`, and its traceback is written to a file.

If INSTAR_TRACEBACK is set, the traceback is printed too. Containers set it, because their files disappear with them.
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
"""Exit codes of a command whose standard output was closed, and of one that Ctrl-C ended: 128 + the signal, as in a shell."""


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
    """Return the named error for any exception: the error itself, a `StorageError` or an `InternalError`."""
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
        expected="to write to standard output",
        found=str(error),
        where="standard output",
        action="free space where the output goes, or send it elsewhere; everything that was committed before is kept",
    )


def _internal(error: Exception) -> InternalError:
    """Return the error of a fault in instar, and keep its traceback."""
    text = "".join(traceback.format_exception(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if os.environ.get(SHOW):
        terminal.warn(text)
    return InternalError(
        expected="instar to handle this situation",
        found=f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})",
        where=_traceback_file(text),
        action=f"report this error with its traceback at {REPORT}",
    )


def _traceback_file(text: str) -> str:
    """Write a traceback to a new file and return its path. Print the traceback if no file can be written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="instar-", suffix=".traceback")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError:
        terminal.warn(text)
        return "the traceback above"
    return path
