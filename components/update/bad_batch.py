"""Saves the rollouts that a bad number came from, so that a person can look at them after the update has stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from instar.components.update.advantages import Ints
from instar.errors import NumericsError

if TYPE_CHECKING:
    from instar.components.update.batching import Micro
    from instar.components.update.update_batch import UpdateBatch

pc: Any = pyarrow.compute  # its functions are created at import, where a type checker cannot see them

Dump = Callable[[Ints], Path]
"""Saves the rollouts with these row numbers and returns the folder."""


def dumper(data: UpdateBatch, rollouts: pa.Table, scores: pa.Table, folder: Path) -> Dump:
    """Return a function that saves rollouts and their scores as two Parquet files in `folder`."""

    def dump(rows: Ints) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        ids = data.rollout_id.take(pa.array(np.sort(rows)))
        for name, table in (("rollouts", rollouts), ("scores", scores)):
            chosen = pc.is_in(table.column("rollout_id"), value_set=ids)
            pq.write_table(table.filter(chosen), folder / f"{name}.parquet")
        return folder

    return dump


@contextmanager
def saved_on_error(micros: Sequence[Micro], dump: Dump) -> Iterator[None]:
    """Save the rollouts of `micros` when a `NumericsError` is raised inside, and say in the error where they are."""
    try:
        yield
    except NumericsError as error:
        rows = np.concatenate([micro.rows.numpy() for micro in micros])
        raise NumericsError(
            expected=error.expected,
            found=error.found,
            where=error.where,
            action=f"{error.action}; batch saved in {dump(rows)}",
        ) from error
