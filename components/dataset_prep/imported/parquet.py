"""Parquet files. Batches are decoded one after the other, so a file of any size takes the memory of one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from instar.components.dataset_prep.imported.part import BATCH, Batch, refused


def read(path: Path, name: str, drop: Sequence[str] = ()) -> Iterator[Batch]:
    """Yield the rows of a file, with their numbers from 1."""
    number = 1
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            check_types(file.schema_arrow, name, drop)
            columns = [column for column in file.schema_arrow.names if column not in drop]
            for batch in file.iter_batches(batch_size=BATCH, columns=columns, use_threads=False):
                yield list(enumerate(batch.to_pylist(), number))
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        found = str(error).splitlines()[0]
        raise refused("a Parquet file", found, f"{name}:row {number}", "write the file again") from error


def check_types(schema: pa.Schema, name: str, drop: Sequence[str]) -> None:
    """Raise `ContractError` for a column whose values JSON cannot hold, for example a time or bytes."""
    for field in schema:
        if field.name not in drop and (bad := _bad(field.type)) is not None:
            action = f"cast the column to text, or leave it out with --drop {field.name}"
            raise refused("text, numbers, lists and structs", f"values of type {bad}", f"{name}:{field.name}", action)


def _bad(kind: pa.DataType) -> pa.DataType | None:
    """Return the first type inside `kind` that JSON cannot hold. An image is a struct of bytes and path, and is told later."""
    types = pa.types
    if types.is_dictionary(kind):
        return _bad(kind.value_type)
    if types.is_struct(kind):
        if {"bytes", "path"} == {kind.field(i).name for i in range(kind.num_fields)}:
            return None
        return next((bad for i in range(kind.num_fields) if (bad := _bad(kind.field(i).type)) is not None), None)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _bad(kind.value_type)
    plain = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
    )
    return None if any(test(kind) for test in plain) else kind
