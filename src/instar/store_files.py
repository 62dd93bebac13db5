"""What every store shares: valid object names, and file-system calls whose failures name the path and the cure."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from instar.errors import ArtifactError, ConfigError, StorageError

STALE_S = 24 * 3600.0
_SEGMENT = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,199}")
_ADVICE = {
    errno.ENOSPC: "free space on that file system, then run the same command again",
    errno.EDQUOT: "raise the disk quota or delete files, then run the same command again",
    errno.EFBIG: "raise the file size limit (ulimit -f), then run the same command again",
    errno.EROFS: "choose a folder on a writable file system",
    errno.EACCES: "grant write and search permission on the folder, or choose another one",
    errno.EPERM: "choose a file system that allows hard links, and grant permission on the folder",
    errno.EIO: "check the disk: it reports input/output errors",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOENT: "make the folder first, or correct the path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then run the same command again",
}
_REFUSED = {
    *_ADVICE,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENXIO,
    errno.ENODEV,
    errno.EUCLEAN,
} - {errno.ENOENT}
_ABSENT = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY}
_TOLD = re.compile(r"\(os error (\d+)\)|\berrno = (\d+)")


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """The bytes of an object and the tag of that version: opaque, on S3 the ETag."""

    data: bytes
    tag: str


def check_name(name: str) -> str:
    """Return `name` if it is a valid object name: segments of `A-Za-z0-9._=-` that do not begin with a dot."""
    if len(name) > 800 or not all(_SEGMENT.fullmatch(part) for part in name.split("/")):
        raise ConfigError(
            expected="an object name: segments of A-Z a-z 0-9 . _ = - joined by '/', none beginning with a dot",
            found=repr(name[:200]),
            where="object store",
            action="correct the name",
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return `prefix` if some valid object name begins with it."""
    check_name(f"{prefix}x")
    return prefix


def missing(name: str, uri: str) -> ArtifactError:
    """Return the error for an object that is not there."""
    return ArtifactError(
        expected=f"object '{name}'",
        found="nothing",
        where=f"{uri}/{name}",
        action="check that the store is the one the evolution was started with, or restore it from a copy",
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn every `OSError` of the block, and a path that no file can have, into a `StorageError` that names `path` and the cure."""
    try:
        yield
    except OSError as error:
        raise _refused(error.errno or 0, str(error.strerror or error), str(path)) from error
    except ValueError as error:
        if (named := refusal(error, path)) is None:
            raise
        raise named from error


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Raise `StorageError` where the file system of `folder` refused, which each library that writes a file says in its own way."""
    try:
        yield
    except Exception as error:
        named = refusal(error, folder)
        if named is None or isinstance(error, StorageError):
            raise
        raise named from error


def refusal(error: BaseException, folder: Path | None = None, *, missing: bool = False) -> StorageError | None:
    """Return the `StorageError` of an exception by which the file system refused; None for any other.

    It names the file of the exception, or `folder`. With `missing` a file that is absent, or that is in the way, counts too.
    """
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ValueError) and "null byte" in str(error):
        return _refused(errno.EINVAL, "a path with a null byte", str(folder or "a path that was given"))
    if code is None and (found := _TOLD.search(str(error))):
        code = int(
            found[1] or found[2]
        )  # safetensors and HDF5 have exceptions of their own, with the number in the text
    if code is None or not (code in _REFUSED or (missing and code in _ABSENT)):
        return None
    where = getattr(error, "filename", None) or folder or "a file of this process"
    return _refused(code, os.strerror(code), os.fsdecode(where) if not isinstance(where, int) else str(where))


def _refused(code: int, found: str, where: str) -> StorageError:
    return StorageError(
        expected="to read and write files there",
        found=f"{errno.errorcode.get(code, code)}: {found}",
        where=where,
        action=_ADVICE.get(code, "check the path and its file system"),
    )


def check_writable(path: Path, option: str) -> None:
    """Raise `StorageError` unless the file `path` can be written: asked before the work whose result it is to hold."""
    with storage_errors(path):
        folder = path.parent
        if path.is_dir() or not folder.is_dir():
            found = errno.EISDIR if path.is_dir() else errno.ENOTDIR if folder.exists() else errno.ENOENT
            raise OSError(found, f"{os.strerror(found)} ({option})")
        target = path if path.exists() else folder
        if not os.access(target, os.W_OK):
            found = errno.EROFS if os.statvfs(target).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(found, f"{os.strerror(found)} ({option})")


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all. A `StorageError` leaves the old one, and nothing beside it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` alone among all threads and processes; it is made when absent and never removed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, durable: bool = True) -> None:
    """Create a folder and its parents; with `durable`, the new names survive a power failure."""
    if path.is_dir():
        return
    make_folder(path.parent, durable)
    path.mkdir(exist_ok=True)
    if durable:
        fsync_folder(path.parent)


def remove_stale(folder: Path) -> None:
    """Remove what a killed process left in a folder of temporary files more than `STALE_S` seconds ago.

    Age is counted from a file made now, by the clock of the file system: that of this process can be a day off.
    """
    fresh = folder / f"clock-{secrets.token_hex(8)}"
    fresh.touch()
    try:
        now = fresh.stat().st_mtime
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > STALE_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        fresh.unlink(missing_ok=True)
