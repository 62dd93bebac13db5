"""Plain text of at most 120 columns: sections with a title column, and tables of options that are never broken inside."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 120


def section(title: str, texts: Iterable[str]) -> list[str]:
    """Return wrapped lines under a title column."""
    indent = " " * 14
    out: list[str] = []
    for text in texts:
        first = f"{title:<13} " if not out else indent
        out += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent + "  ")
    return out


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a line or more per topic and column. A row is a topic and one cell per name; one unnamed column has no label."""
    out: list[str] = []
    for topic, *cells in rows:
        for number, (name, cell) in enumerate(zip(names, cells, strict=True)):
            label = f"{name:<14} " if name else ""
            start = f"{topic if number == 0 else '':<13} {label}"
            out += textwrap.wrap(
                cell,
                WIDTH,
                initial_indent=start,
                subsequent_indent=" " * len(start),
                break_on_hyphens=False,
                break_long_words=False,
            )
    return out
