"""A data set that the library `datasets` saved to disk: Arrow streams with `state.json` and `dataset_info.json` beside them.

`dataset_dict.json` names the splits of a folder that holds several. Only pyarrow is needed to read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from instar import plain
from instar.components.dataset_prep.imported.parquet import check_types
from instar.components.dataset_prep.imported.part import BATCH, Batch, refused


def splits(folder: Path) -> list[str]:
    """Return the splits of a folder with `dataset_dict.json`."""
    return [str(name) for name in _object(folder / "dataset_dict.json", "splits")["splits"]]


def files(folder: Path) -> list[Path]:
    """Return the data files of one split in their order. Raises `ContractError` for a data set that was filtered, not flattened."""
    state = _object(folder / "state.json", "_data_files")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        action = "call flatten_indices() before save_to_disk()"
        raise refused("a data set without a table of indices", "one", str(folder / "state.json"), action)
    return [folder / str(entry["filename"]) for entry in state["_data_files"]]


def read(path: Path, name: str, drop: Sequence[str] = ()) -> Iterator[Batch]:
    """Yield the rows of an Arrow stream, with their numbers from 1."""
    number = 1
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            check_types(stream.schema, name, drop)
            columns = [column for column in stream.schema.names if column not in drop]
            for record in stream:
                for start in range(0, record.num_rows, BATCH):
                    rows = record.select(columns).slice(start, BATCH).to_pylist()
                    yield list(enumerate(rows, number))
                    number += len(rows)
    except (pa.ArrowException, OSError) as error:
        found = str(error).splitlines()[0]
        raise refused("an Arrow stream", found, f"{name}:row {number}", "save the data set again") from error


def _object(path: Path, key: str) -> dict[str, Any]:
    try:
        value = plain.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise refused("a file that save_to_disk() wrote", str(error), str(path), "save the data set again") from error
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise refused(f"an object with the list '{key}'", value, str(path), "save the data set again")
    return value
