"""Opening HDF5 files: what is missing, truncated or not HDF5 is a named error, and a new file appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instar.errors import ArtifactError, ContractError, MissingDependencyError
from instar.store_files import storage_errors


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield the `h5py.File`, to be read. Faults inside the block, truncation among them, are an `ArtifactError`."""
    h5py = _library(path)
    if not path.is_file():
        raise ArtifactError(
            expected="an HDF5 file",
            found="a folder" if path.is_dir() else "nothing",
            where=str(path),
            action="correct the path; nothing is downloaded",
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            expected="a complete HDF5 file",
            found=str(error).splitlines()[0][:200],
            where=str(path),
            action="copy or record the data set again",
        ) from error


@contextmanager
def created(path: Path) -> Iterator[Any]:
    """Yield a new `h5py.File` in memory; it is written to `path` when the block is done. `StorageError` where it cannot be.

    HDF5 itself is kept from the disk: when it meets a full one while it closes a file, it ends the process.
    """
    image, part = io.BytesIO(), path.with_suffix(".tmp")
    with _library(path).File(image, "w") as file:
        yield file
    with storage_errors(path):
        try:
            part.write_bytes(image.getbuffer())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


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


def _library(path: Path) -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError(
            expected="h5py", found=str(error), where=str(path), action="install instar[control]"
        ) from error
