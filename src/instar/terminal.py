"""What instar prints: the one way of text to the terminal. Standard library only.

Names of arms, reasons and metrics can come from a ledger or a table that somebody else wrote. A terminal obeys control
sequences in what it shows, so `printable` writes them as escapes, and `say` is how every line gets out.
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
"""Control characters but line end and tab, marks that turn the direction of writing, and halves of surrogate pairs."""


class OutputError(Exception):
    """Standard output takes no more. No `OSError`, which libraries on the way would take for one of their own."""

    def __init__(self, error: OSError) -> None:
        self.errno = error.errno or errno.EIO
        super().__init__(f"{errno.errorcode.get(self.errno, self.errno)}: {error.strerror or error}")


class Output(io.TextIOWrapper):
    """Standard output that ends the command when it takes no more, and writes what its encoding lacks as escapes."""

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
    """Write text to standard error. When nobody reads it any more the exit code still tells."""
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(printable(text))
        sys.stderr.flush()


def prepare() -> None:
    """Make the standard streams safe. A closed descriptor is taken, so that no file of a run becomes standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free descriptor, which is this one; writing to it is refused
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
    """Let the rest of standard output go nowhere, so that the interpreter does not fail with it once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
