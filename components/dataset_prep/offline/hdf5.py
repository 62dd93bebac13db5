"""Opening HDF5 files: the one way in for a file that others wrote, and a new file appears whole or not at all.

A file is read as data and as nothing else. A link to another file, numbers that lie outside of the file, and arrays that declare
far more numbers than the file holds are refused before they are read.
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
"""An array has at most this many bytes for each byte that is stored. Deflate, HDF5's usual filter, reaches 1032."""
SMALL_BYTES = 4096
"""An array of at most so many bytes need not be stored at all: HDF5 keeps none for numbers that were never written."""
KINDS = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "booleans"}
FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""What h5py raises for a file that is damaged or made to harm, by the part of the file that is wrong."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield the `h5py.File`, to be read. Whatever h5py raises inside the block, for truncation among others, is an
    `ArtifactError` with the path; errors of instar pass through."""
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


def member(group: Any, name: str, where: str) -> Any:
    """Return `group[name]`. An absent name is a `ContractError`, and so is a link that leaves the group."""
    names = sorted(group.keys())  # `in group` would follow a link, and find nothing behind one that dangles
    if name not in names:
        raise _refused(f"an array '{name}'", f"only {names}"[:200], where, _FLAT)
    link = group.get(name, getlink=True)
    if type(link).__name__ != "HardLink":
        raise _refused(f"the data of '{name}' in this place", f"a {type(link).__name__}", where, _COPY)
    return group[name]


def array(group: Any, name: str, where: str) -> npt.NDArray[Any]:
    """Return the numbers of `group[name]`, an array of one axis or more.

    A `ContractError` names what is in the way: an absent name, a group, a link, text and records in place of numbers, numbers that
    lie in another file, and a shape that the stored bytes cannot fill.
    """
    found = member(group, name, where)
    if not hasattr(found, "shape"):
        raise _refused(f"an array '{name}'", "a group of arrays", where, _FLAT)
    at = f"{where}:{name}"
    if found.external or found.is_virtual:  # either makes HDF5 read any file that the process may read
        raise _refused("numbers that are stored in this file", "a reference to another file", at, _COPY)
    if found.dtype.kind not in KINDS:
        raise _refused(f"numbers: {', '.join(KINDS.values())}", str(found.dtype)[:200], at, _FLAT)
    if not found.shape:
        raise _refused("an array with an axis of steps", f"shape {found.shape}", at, _FLAT)
    size, stored = found.size * found.dtype.itemsize, found.id.get_storage_size()
    if size > SMALL_BYTES + EXPANSION * stored:
        raise _refused(f"at most {EXPANSION} bytes for each that is stored", f"{size} for {stored}", at, _COPY)
    return np.asarray(found[()])


_FLAT = "only data sets with flat observations and actions can be read"
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
