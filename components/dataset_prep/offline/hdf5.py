"""Opening HDF5 files: what is missing, truncated or not HDF5 is a named error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instar.errors import ArtifactError, ContractError, MissingDependencyError


@contextmanager
def opened(path: Path, mode: str = "r") -> Iterator[Any]:
    """Yield the open `h5py.File`. Reading faults inside the block, truncation among them, are an `ArtifactError`."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            expected="h5py", found=str(error), where=str(path), action="install instar[control]"
        ) from error
    try:
        with h5py.File(path, mode) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            expected="a complete HDF5 file",
            found=str(error).splitlines()[0][:200],
            where=str(path),
            action="copy or record the data set again",
        ) from error


def array(group: Any, name: str, where: str) -> npt.NDArray[Any]:
    """Return the data of `group[name]`. An absent name, or a group in its place, is a `ContractError`."""
    if name not in group or not hasattr(group[name], "shape"):
        found = "a group of arrays" if name in group else f"only {sorted(group.keys())}"
        raise ContractError(
            expected=f"an array '{name}'",
            found=found,
            where=where,
            action="only data sets with flat observations and actions can be read",
        )
    return np.asarray(group[name][()])
