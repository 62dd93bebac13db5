"""A part of a data set: one file, or one split that a library reads. Also the limits and the errors of all formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from instar.errors import ContractError
from instar.plain import brief

BATCH = 4096
"""How many rows are read at once."""
MAX_CHARS = 1_000_000
"""Most characters of one cell. A longer cell is nearly always a file with a quote that is never closed."""
MAX_LINE = 16 << 20
"""Most bytes of one line of a text file."""

Cells: TypeAlias = dict[str, Any]
Batch: TypeAlias = list[tuple[int, Cells]]
"""Rows with their numbers in the file."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file. `split` is the pool that its name says, or empty. `unit` is what a row's number counts."""

    name: str
    split: str
    unit: str
    read: Callable[[], Iterator[Batch]]

    def place(self, number: int, column: str = "") -> str:
        """Return where a row is, for example `units.jsonl:line 7:answer`."""
        return ":".join(filter(None, (self.name, f"{self.unit} {number}", column)))


def refused(expected: str, found: object, where: str, action: str) -> ContractError:
    """Return the error for a row or a file that cannot be imported."""
    shown = found if isinstance(found, str) else brief(found)
    return ContractError(expected=expected, found=shown, where=where, action=action)


def decoded(line: bytes, where: str) -> str:
    """Return the text of a line. Raises `ContractError` for bytes that are not UTF-8, for NUL, and for a line that is too long."""
    if len(line) > MAX_LINE:
        raise refused(
            f"lines of at most {MAX_LINE:,} bytes", "a longer line", where, "look for a quote without its pair"
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        action = "save the file as UTF-8, for example with `iconv -f latin1 -t utf-8`"
        raise refused(
            "text in UTF-8", f"byte 0x{line[error.start]:02x} at position {error.start}", where, action
        ) from error
    if "\x00" in text:
        raise refused("text without NUL characters", "a NUL character", where, "remove it, or save the file as UTF-8")
    return text


def without_mark(line: bytes, where: str) -> bytes:
    """Return the first line of a file without the byte-order mark of UTF-8. Raises `ContractError` for a mark of UTF-16 or 32."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        action = "save the file as UTF-8, for example with `iconv -f utf-16 -t utf-8`"
        raise refused("text in UTF-8", "the byte-order mark of UTF-16 or UTF-32", where, action)
    return line.removeprefix(b"\xef\xbb\xbf")
