"""Output of text: everything that instar prints to a terminal goes through this module. Standard library only.

Names of arms, reasons and metrics can come from a ledger or a table that somebody else wrote. A terminal obeys control
sequences in the text that it shows. So `printable` replaces them by escapes, and every line is printed by `say`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Control characters except line end and tab, marks that change the direction of writing, and halves of surrogate pairs."""


class OutputError(Exception):
    """Standard output takes no more text.

    This is not an `OSError`, because a library between could catch an `OSError` and treat it as its own.
    """

    def __init__(self, error: OSError) -> None:
        self.errno = error.errno or errno.EIO
        super().__init__(f"{errno.errorcode.get(self.errno, self.errno)}: {error.strerror or error}")


class Output(io.TextIOWrapper):
    """Standard output. It raises `OutputError` when it takes no more text. Characters that it cannot encode become escapes."""

    def write(self, text: str, /) -> int:
        """Write text."""
        with _named():
            return super().write(text)

    def flush(self) -> None:
        """Pass on what is buffered."""
        with _named():
            super().flush()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error) from error


def printable(text: str) -> str:
    """Return text with every control character as an escape, such as `\\x1b`."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str) -> None:
    """Write text to standard output."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def warn(text: str) -> None:
    """Write text to standard error. A failure is ignored, because the exit code still reports the error."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(printable(text))
        sys.stderr.flush()


def prepare() -> None:
    """Make the standard streams safe.

    If a standard descriptor is closed, it is opened on the null device. Otherwise the next file that is opened would get the
    number of, for example, standard output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number, which is `number`; it cannot be written
    if sys.stdout is sys.__stdout__:
        settle()
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        lines = sys.stdout is not None and sys.stdout.isatty()
        raw = open(1, "wb", closefd=False)  # noqa: SIM115
        sys.stdout = Output(raw, encoding=encoding, errors="backslashreplace", line_buffering=lines)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


def settle() -> None:
    """Write out what is left of standard output."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up() -> None:
    """Discard the rest of standard output, so that the interpreter does not fail with it again when it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
