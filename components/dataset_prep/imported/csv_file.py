"""CSV and TSV: a header line, then one row a record. All cells are text. A quoted cell may have line breaks."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from instar.components.dataset_prep.imported.part import (
    BATCH,
    MAX_CHARS,
    MAX_LINE,
    Batch,
    decoded,
    refused,
    without_mark,
)


def read(path: Path, name: str) -> Iterator[Batch]:
    """Yield the rows of a file. Their numbers are those of the lines on which they end, from 1. The header is line 1."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(MAX_CHARS)
    with path.open("rb") as file:
        reader = csv.reader(_lines(file, name), delimiter=delimiter, strict=True)
        header = _header(_next(reader, name), name, delimiter)
        batch: Batch = []
        while (cells := _next(reader, name)) is not None:
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                where, action = (
                    f"{name}:line {reader.line_num}",
                    "quote cells that contain the delimiter or a line break",
                )
                raise refused(f"{len(header)} cells, as the header has", f"{len(cells)} cells", where, action)
            batch.append((reader.line_num, dict(zip(header, cells, strict=True))))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _lines(file: object, name: str) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE + 1):  # type: ignore[attr-defined]
        number += 1
        where = f"{name}:line {number}"
        yield decoded(line if number > 1 else without_mark(line, where), where)


def _next(reader: Iterator[list[str]], name: str) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        line = getattr(reader, "line_num", 0)
        action = "close the quote, and write a quote inside a quoted cell twice"
        raise refused("a CSV record", f"{error}", f"{name}:line {line}", action) from error


def _header(names: list[str] | None, name: str, delimiter: str) -> list[str]:
    where = f"{name}:line 1"
    if not names:
        raise refused("a header line with the names of the columns", "an empty file", where, "add the header")
    names = [column.strip() for column in names]
    other = next((sign for sign in (";", "\t", "|", ",") if len(names) == 1 and sign in names[0]), None)
    if other is not None:
        action = "write tab-separated files with the ending .tsv, and all others with commas"
        raise refused(f"columns separated by {delimiter!r}", f"one column {names[0]!r}", where, action)
    wrong = [column for column in names if not column or names.count(column) > 1]
    if wrong:
        raise refused("columns with different names", f"{names}", where, f"rename the columns {sorted(set(wrong))}")
    return names
