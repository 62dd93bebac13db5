"""What every store shares: the check of object names, and file-system calls whose errors name the path and the remedy."""

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
    """The bytes of an object and the tag of that version. A tag is an opaque text; on S3 it is the ETag."""

    data: bytes
    tag: str


def check_name(name: str) -> str:
    """Return `name` if it is a valid object name: parts of `A-Za-z0-9._=-`, joined by `/`, that do not begin with a dot."""
    if len(name) > 800 or not all(_SEGMENT.fullmatch(part) for part in name.split("/")):
        raise ConfigError(
            expected="an object name: parts of A-Z a-z 0-9 . _ = - joined by '/', none of which begins with a dot",
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
        action="check that this is the store that the evolution was started with, or restore it from a copy",
    )


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `StorageError` that names `path` and the remedy.

    A path with a null byte raises `ValueError` in Python. It becomes a `StorageError` too.
    """
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
    """Raise `StorageError` if the file system refused a file in `folder`.

    Libraries that write files have different exceptions for this; all of them are recognised.
    """
    try:
        yield
    except Exception as error:
        named = refusal(error, folder)
        if named is None or isinstance(error, StorageError):
            raise
        raise named from error


def refusal(error: BaseException, folder: Path | None = None, *, missing: bool = False) -> StorageError | None:
    """Return the `StorageError` for an exception that means that the file system refused. Return None for any other exception.

    The error names the file of the exception, or `folder` if the exception has no file. With `missing`, a file that is absent
    or that already exists counts as refused too.
    """
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ValueError) and "null byte" in str(error):
        return _refused(errno.EINVAL, "a path with a null byte", str(folder or "a path that was given"))
    if code is None and (match := _TOLD.search(str(error))):
        code = int(match[1] or match[2])  # safetensors and HDF5 have their own exceptions, with the number in the text
    if code is None or not (code in _REFUSED or (missing and code in _ABSENT)):
        return None
    where = getattr(error, "filename", None) or folder or "a file of this process"
    return _refused(code, os.strerror(code), os.fsdecode(where) if not isinstance(where, int) else str(where))


def _refused(code: int, found: str, where: str) -> StorageError:
    return StorageError(
        expected="to read and write files at this path",
        found=f"{errno.errorcode.get(code, code)}: {found}",
        where=where,
        action=_ADVICE.get(code, "check the path and its file system"),
    )


def check_writable(path: Path, option: str) -> None:
    """Raise `StorageError` unless the file `path` can be written. Call this before long work whose result goes to the file."""
    with storage_errors(path):
        folder = path.parent
        if path.is_dir() or not folder.is_dir():
            code = errno.EISDIR if path.is_dir() else errno.ENOTDIR if folder.exists() else errno.ENOENT
            raise OSError(code, f"{os.strerror(code)} ({option})")
        target = path if path.exists() else folder
        if not os.access(target, os.W_OK):
            code = errno.EROFS if os.statvfs(target).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, f"{os.strerror(code)} ({option})")


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all. After a `StorageError` the old file is unchanged."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`. Only one thread of one process holds it at a time. The file is never removed."""
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
    """Create a folder and its parents. With `durable`, the new names survive a power failure."""
    if path.is_dir():
        return
    make_folder(path.parent, durable)
    path.mkdir(exist_ok=True)
    if durable:
        fsync_folder(path.parent)


def remove_stale(folder: Path) -> None:
    """Remove files that killed processes left in a folder of temporary files more than `STALE_S` seconds ago.

    The age is measured against a file that is created now. Both times then come from the clock of the file system. The clock
    of this process may differ from it, for example by a day.
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
