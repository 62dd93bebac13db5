"""Reads and writes HDF5 files. All HDF5 files that others wrote are read here, because such a file can be made to do harm.

Three things are refused before anything is read: a link to another file, numbers that are stored outside of the file, and an array
that declares far more numbers than the file holds. A new file appears whole or not at all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instar.errors import ArtifactError, ContractError, InstarError, MissingDependencyError
from instar.store_files import storage_errors

EXPANSION = 1100
"""The largest allowed ratio of an array's bytes to its stored bytes. Deflate, the usual filter of HDF5, reaches 1032."""
SMALL_BYTES = 4096
"""Arrays up to this size may have no stored bytes, because HDF5 stores nothing for numbers that were never written."""
KINDS = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "booleans"}
FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""The exceptions that h5py raises for damaged and malicious files. Which one it raises depends on the wrong part of the file."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield the `h5py.File` for reading.

    Any exception of h5py inside the block becomes an `ArtifactError` with the path, for example when the file is cut short. Errors
    of instar stay as they are.
    """
    h5py = _library(path)
    try:
        if not path.is_file():
            raise ArtifactError(
                expected="an HDF5 file",
                found="a folder" if path.is_dir() else "nothing",
                where=str(path),
                action="correct the path; nothing is downloaded",
            )
        with h5py.File(path, "r") as file:
            yield file
    except InstarError:
        raise
    except FAULTS as error:
        raise ArtifactError(
            expected="a complete HDF5 file",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            where=str(path),
            action="copy or record the data set again",
        ) from error


@contextmanager
def created(path: Path) -> Iterator[Any]:
    """Yield a new `h5py.File` in memory. It is written to `path` at the end of the block. A failed write is a `StorageError`.

    HDF5 does not write to the disk itself. If the disk is full while HDF5 closes a file, HDF5 ends the whole process.
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


def member(group: Any, name: str, where: str) -> Any:
    """Return `group[name]`. A missing name is a `ContractError`, and so is a link to another place."""
    names = sorted(group.keys())  # `name in group` would follow a link, and would be False for a broken one
    if name not in names:
        raise _refused(f"an array '{name}'", f"only {names}"[:200], where, _FLAT)
    link = group.get(name, getlink=True)
    if type(link).__name__ != "HardLink":
        raise _refused(f"the data of '{name}' in this group itself", f"a {type(link).__name__}", where, _COPY)
    return group[name]


def array(group: Any, name: str, where: str) -> npt.NDArray[Any]:
    """Return the numbers of `group[name]`, an array with one axis or more.

    Raises `ContractError` for a missing name, a group, a link, texts or records in place of numbers, numbers that are stored in
    another file, and a shape with far more numbers than the stored bytes can hold.
    """
    dataset = member(group, name, where)
    if not hasattr(dataset, "shape"):
        raise _refused(f"an array '{name}'", "a group of arrays", where, _FLAT)
    at = f"{where}:{name}"
    if dataset.external or dataset.is_virtual:  # both could make HDF5 read any file that this process may read
        raise _refused("numbers that are stored in this file", "a reference to another file", at, _COPY)
    if dataset.dtype.kind not in KINDS:
        raise _refused(f"numbers: {', '.join(KINDS.values())}", str(dataset.dtype)[:200], at, _FLAT)
    if not dataset.shape:
        raise _refused("an array with an axis of steps", f"shape {dataset.shape}", at, _FLAT)
    size, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if size > SMALL_BYTES + EXPANSION * stored:
        raise _refused(f"at most {EXPANSION} bytes for each that is stored", f"{size} for {stored}", at, _COPY)
    return np.asarray(dataset[()])


_FLAT = "choose a data set with flat observations and actions; no other can be read"
_COPY = "write the data set again, with every array in the file itself"


def _refused(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)


def _library(path: Path) -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        raise MissingDependencyError(
            expected="h5py", found=str(error), where=str(path), action="install instar[control]"
        ) from error
