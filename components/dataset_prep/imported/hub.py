"""A data set of the Hugging Face hub, by its id. The library `datasets` fetches it into its own cache and memory-maps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from instar.components.dataset_prep.imported.part import BATCH, Batch
from instar.errors import MissingDependencyError, UnavailableError

ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(name: str) -> dict[str, Any]:
    """Return the splits of a data set by name.

    Raises `MissingDependencyError` without the library `datasets`, and `UnavailableError` if the hub does not give the data set.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            expected="the library datasets, which reads the hub",
            found=str(error),
            where=f"import {name}",
            action="install datasets, or download the files and import the folder",
        ) from error
    try:
        return {str(split): rows for split, rows in datasets.load_dataset(name).items()}
    except Exception as error:  # the library raises errors of many packages, for example of its HTTP client
        raise UnavailableError(
            expected=f"data set {name} of the hub",
            found=f"{type(error).__name__}: {error}"[:300],
            where=f"import {name}",
            action="check the id and the network, or download the files and import the folder",
        ) from error


def read(split: Any) -> Iterator[Batch]:
    """Yield the rows of one split, with their numbers from 1."""
    for start in range(0, len(split), BATCH):
        columns = split[start : start + BATCH]
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        yield list(enumerate(rows, start + 1))
