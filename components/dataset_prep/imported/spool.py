"""Rows on disk, sorted into buckets by the hash of their prompts. Memory holds one batch or one bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from instar.components.dataset_prep.imported.cells import Task
from instar.store_files import storage_errors

BUCKET_BYTES, MOST_BUCKETS = 32 << 20, 256
"""Bytes of the source per bucket, and how many buckets there are at most, because each is an open file."""
SCHEMA = pa.schema(
    {
        "key": pa.uint64(),
        "answer": pa.uint64(),
        "prompt": pa.string(),
        "reference": pa.string(),
        "content": pa.binary(32),
        "arm": pa.int32(),
        "level": pa.float64(),
        "split": pa.int8(),
        "part": pa.int32(),
        "row": pa.int64(),
    }
)


class Spool:
    """The buckets of one import, in a folder that the caller removes."""

    def __init__(self, folder: Path, num_bytes: int) -> None:
        self._folder = folder
        count = 1
        while count * BUCKET_BYTES < num_bytes and count < MOST_BUCKETS:
            count *= 2
        self._shift = np.uint64(64 - (count.bit_length() - 1)) if count > 1 else None
        self._paths = [folder / f"bucket-{number:03d}.arrow" for number in range(count)]
        self._writers = [pa.ipc.new_stream(str(path), SCHEMA) for path in self._paths]

    def add(self, columns: dict[str, Sequence[object] | np.ndarray]) -> None:
        """Append rows. `columns` are those of `SCHEMA`."""
        batch = pa.record_batch([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)
        with storage_errors(self._folder):
            if self._shift is None:
                self._writers[0].write_batch(batch)
                return
            buckets = (np.asarray(columns["key"], dtype=np.uint64) >> self._shift).astype(np.int64)
            order = np.argsort(buckets, kind="stable")
            ordered, edges = (
                batch.take(pa.array(order)),
                np.searchsorted(buckets[order], np.arange(len(self._paths) + 1)),
            )
            for number, (start, end) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
                if end > start:
                    self._writers[number].write_batch(ordered.slice(start, end - start))

    def close(self) -> None:
        """Finish writing."""
        for writer in self._writers:
            writer.close()

    def buckets(self) -> Iterator[pa.Table]:
        """Yield the rows of every bucket. The hashes of a bucket are all below those of the next."""
        for path in self._paths:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                yield stream.read_all()

    def labels(self, number: int) -> pa.Table:
        """Return the rows of one bucket."""
        with pa.memory_map(str(self._paths[number])) as source, pa.ipc.open_stream(source) as stream:
            return stream.read_all()


def number(digest: bytes) -> int:
    """Return the first 64 bits of a hash."""
    return int.from_bytes(digest[:8], "big")


def columns_of(tasks: Sequence[Task]) -> dict[str, Sequence[object]]:
    """Return the columns that follow from the tasks alone."""
    return {
        "key": [number(task.key) for task in tasks],
        "prompt": [task.prompt for task in tasks],
        "reference": [task.reference for task in tasks],
        "content": [task.content for task in tasks],
    }
