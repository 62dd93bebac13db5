"""`LocalStore`: an object store in a folder of a local or network file system."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from instar.errors import ArtifactError
from instar.store_files import (
    Tagged,
    check_name,
    check_prefix,
    fsync_folder,
    locked,
    make_folder,
    missing,
    remove_stale,
    storage_errors,
)

_TEMP = ".tmp"
_LOCK = ".lock"


class LocalStore:
    """Objects as read-only files below `root`. Temporary files are in `root/.tmp`, on the same file system."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = Path(root).absolute()
        self.uri = self.root.as_uri()
        self.durable = durable
        self._temp = self.root / _TEMP
        self._swept = False

    def __repr__(self) -> str:
        return f"LocalStore({self.uri})"

    def put_file(self, name: str, path: Path) -> None:
        """Copy a file into the store."""
        target = self._path(name)
        if not path.is_file():
            raise ArtifactError(expected="a file to store", found="nothing", where=str(path), action="check the path")
        with storage_errors(target), self._temporary() as temp:
            with path.open("rb") as source:
                self._fill(temp, source)
            self._publish(temp, target)

    def put_bytes(self, name: str, data: bytes) -> None:
        """Store bytes."""
        target = self._path(name)
        with storage_errors(target), self._temporary() as temp:
            self._fill(temp, data)
            self._publish(temp, target)

    def get_file(self, name: str, path: Path) -> None:
        """Copy an object out of the store."""
        source = self._existing(name)
        with storage_errors(path):
            temp = path.parent / f".{secrets.token_hex(8)}{_TEMP}"
            try:
                with source.open("rb") as reader, temp.open("xb") as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
                    self._sync(writer.fileno())
                temp.rename(path)
            finally:
                temp.unlink(missing_ok=True)
            self._sync_folder(path.parent)

    def read(self, name: str) -> bytes:
        """Return the bytes of an object."""
        path = self._existing(name)
        with storage_errors(path):
            return path.read_bytes()

    def exists(self, name: str) -> bool:
        """Return whether the object is there."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the size in bytes, or None when there is no such object."""
        path = self._path(name)
        with storage_errors(path):
            return path.stat().st_size if path.is_file() else None

    def create(self, name: str, data: bytes) -> bool:
        """Write a temporary file and hard-link it to the name. The link fails if the name exists."""
        target = self._path(name)
        with storage_errors(target):
            if target.exists():
                return False
            with self._temporary() as temp:
                self._fill(temp, data)
                make_folder(target.parent, self.durable)
                try:
                    os.link(temp, target)
                    won = True
                except FileExistsError:
                    won = temp.stat().st_nlink == 2  # a network file system may have sent a successful link twice
                self._sync_folder(target.parent)
            return won

    def read_tagged(self, name: str) -> Tagged | None:
        """Return the bytes of an object, with their digest as the tag, or None when there is no such object."""
        path = self._path(name)
        with storage_errors(path):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        return Tagged(data=data, tag=hashlib.sha256(data).hexdigest())

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Compare and replace while holding the lock file of the store. The kernel frees the lock when its holder dies.

        The lock is `root/.lock` and is never removed. It is not in `.tmp`, because files there may be removed as stale.
        """
        target = self._path(name)
        with storage_errors(target):
            if not target.is_file():
                return False
            with locked(self.root / _LOCK), self._temporary() as temp:
                current = self.read_tagged(name)
                if current is None or current.tag != tag:
                    return False
                self._fill(temp, data)
                self._publish(temp, target)
                return True

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names that begin with `prefix`."""
        check_prefix(prefix)
        folder = self.root / prefix.rpartition("/")[0]
        names: list[str] = []
        with storage_errors(folder):
            for parent, folders, files in os.walk(folder, onerror=_unless_gone):
                folders[:] = [f for f in folders if not f.startswith(".")]
                inside = Path(parent).relative_to(self.root)
                names += [(inside / f).as_posix() for f in files if not f.startswith(".")]
        return sorted(name for name in names if name.startswith(prefix))

    def link_file(self, name: str, path: Path) -> bool:
        """Hard-link the object to `path`. Return False if the file system cannot; then copy it with `get_file`."""
        source = self._existing(name)
        try:
            os.link(source, path)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                return False
            with storage_errors(path):
                raise
        return True

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _existing(self, name: str) -> Path:
        path = self._path(name)
        with storage_errors(path):
            if path.is_file():
                return path
        raise missing(name, self.uri)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """Yield a new path in the temporary folder of the store. A file that is there afterwards is removed."""
        if not self._swept:
            make_folder(self._temp, self.durable)
            remove_stale(self._temp)
            self._swept = True
        path = self._temp / secrets.token_hex(12)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _fill(self, temp: Path, data: bytes | BinaryIO) -> None:
        descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        with os.fdopen(descriptor, "wb") as writer:
            if isinstance(data, bytes):
                writer.write(data)
            else:
                shutil.copyfileobj(data, writer, 1 << 20)
            writer.flush()
            self._sync(writer.fileno())

    def _publish(self, temp: Path, target: Path) -> None:
        make_folder(target.parent, self.durable)
        temp.rename(target)
        self._sync_folder(target.parent)

    def _sync(self, descriptor: int) -> None:
        if self.durable:
            os.fsync(descriptor)

    def _sync_folder(self, path: Path) -> None:
        if self.durable:
            fsync_folder(path)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
