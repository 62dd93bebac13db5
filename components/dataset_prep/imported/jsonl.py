"""JSON Lines: one JSON object a line. Blank lines are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from instar.components.dataset_prep.imported.part import BATCH, MAX_LINE, Batch, Cells, decoded, refused, without_mark
from instar.plain import brief


def read(path: Path, name: str) -> Iterator[Batch]:
    """Yield the rows of a file. Their numbers are line numbers from 1."""
    batch: Batch = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{name}:line {number}"
            line = line if number > 1 else without_mark(line, where)
            if text := decoded(line, where).strip():
                batch.append((number, _object(text, where)))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _object(text: str, where: str) -> Cells:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        action = "correct the line; a file of JSON Lines has one whole object a line"
        if text.startswith("["):
            action = "write one object a line, for example with `jq -c '.[]' file.json > file.jsonl`"
        raise refused("a JSON object", f"{_brief(error)} in {brief(text[:80])}", where, action) from error
    if not isinstance(value, dict):
        action = "write one object a line, for example with `jq -c '.[]' file.json > file.jsonl`"
        raise refused('a JSON object such as {"prompt": "3 km in m = ", "answer": "3000"}', value, where, action)
    return value


def _brief(error: Exception) -> str:
    return "values that nest too deep" if isinstance(error, RecursionError) else str(error)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. A key that it has twice is a fault, because only one of the two values would count."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} twice")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
