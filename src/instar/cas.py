"""Content-addressed artifacts: a folder of files becomes a manifest of digests, and the manifest's digest is its name.

The digest of an artifact is `"sha256:"` + SHA-256 of the manifest's canonical JSON, so equal folders (names and bytes), types
and metadata have equal digests anywhere. Blobs are stored at `blobs/ab/<sha256>`, manifests at `manifests/ab/<sha256>.json`;
the manifest is written last, so a digest that was returned, or a manifest that exists, has all its blobs. File modes, times
and empty folders are not part of an artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from instar.config import dumps
from instar.errors import ArtifactError, ConfigError
from instar.store import LocalStore, ObjectStore
from instar.store_files import storage_errors

T = TypeVar("T")
_HEX = re.compile(r"[0-9a-f]{64}")
_NUM_THREADS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of an artifact: SHA-256 as hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an artifact is made of. `files` maps relative POSIX paths to digests and sizes."""

    type: str
    files: Mapping[str, FileEntry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return canonical JSON: sorted keys, no blanks, ASCII. NaN in metadata is a `ValueError`."""
        return dumps({"type": self.type, "files": dict(self.files), "metadata": dict(self.metadata)}).encode("ascii")

    @property
    def digest(self) -> str:
        """Return the artifact's digest."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Return the total size of the files."""
        return sum(entry.size for entry in self.files.values())

    @staticmethod
    def from_json(data: bytes, where: str) -> Manifest:
        """Parse a manifest; anything but the exact layout, or a path that leaves its folder, is an `ArtifactError`."""
        try:
            value = json.loads(data)
            files = {str(path): FileEntry(sha256=e["sha256"], size=e["size"]) for path, e in value["files"].items()}
            manifest = Manifest(type=value["type"], files=files, metadata=value["metadata"])
            valid = manifest.to_json() == data and all(
                _is_safe(p) and _HEX.fullmatch(e.sha256) for p, e in files.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad_manifest(f"{type(error).__name__}: {error}", where) from error
        if not valid:
            raise _bad_manifest("other bytes or paths", where)
        return manifest


def _is_safe(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return path == "/".join(parts) and bool(parts) and parts[0] != "/" and ".." not in parts and "\x00" not in path


def _bad_manifest(found: str, where: str) -> ArtifactError:
    return ArtifactError(
        expected="a canonical manifest", found=found, where=where, action="restore the store from a copy"
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree(folder: Path) -> dict[str, Path]:
    """Return relative POSIX path -> file, sorted. Links to files are followed; anything but files and folders is refused."""
    found: dict[str, Path] = {}
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in [*files, *(f for f in folders if (Path(parent) / f).is_symlink())]:
            path = Path(parent) / name
            if not path.is_file():
                raise ArtifactError(
                    expected="only files and folders in an artifact",
                    found="a broken link, a link to a folder, a pipe, a socket or a device",
                    where=str(path),
                    action="remove it",
                )
            found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _raise(error: OSError) -> None:
    raise error


class Cas:
    """Artifacts in a store, with a cache of materialised folders on local disk. Safe to share between threads and processes.

    `put` trusts a stored blob of the right size unless this process has seen it corrupt; then it stores the blob again.
    """

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self.store, self.cache = store, Path(cache).absolute()
        self._verified: dict[str, dict[str, tuple[int, int]]] = {}
        self._corrupt: set[str] = set()
        self._lock = threading.Lock()

    def put(self, folder: Path, type: str, metadata: Mapping[str, Any] | None = None) -> str:
        """Store a folder and return its digest. Files must not change meanwhile: that is an `ArtifactError`."""
        if not folder.is_dir():
            raise ArtifactError(expected="a folder", found="nothing", where=str(folder), action="check the path")
        with storage_errors(folder):
            files = tree(folder)
            entries = dict(zip(files, _parallel(self._put_blob, files.values()), strict=True))
        manifest = Manifest(type=type, files=entries, metadata=metadata or {})
        try:
            data = manifest.to_json()
        except (ValueError, TypeError) as error:
            raise ConfigError(
                expected="metadata of finite JSON values",
                found=str(error),
                where=f"{type}.metadata",
                action="correct it",
            ) from error
        self._put_object(_manifest_name(manifest.digest), data)
        return manifest.digest

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of an artifact."""
        name = _manifest_name(digest)
        data = self.store.read(name)
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if found != digest:
            with self._lock:
                self._corrupt.add(name)
            raise _mismatch(digest, name, digest, found)
        return Manifest.from_json(data, f"{self.store.uri}/{name}")

    def get(self, digest: str) -> Path:
        """Return the artifact as a folder of read-only files in the cache.

        The files are hashed when they come from the store and once per process when they come from the cache. A damaged
        cache folder is fetched again once; damage in the store is an `ArtifactError`.
        """
        folder = self.cache / _hex(digest)
        with storage_errors(folder):
            known = self._verified.get(digest)
            if known is not None and _stats(folder) == known:
                return folder
            manifest = self.manifest(digest)
            if not (folder.is_dir() and self._is_intact(folder, manifest)):
                self._materialise(digest, manifest, folder)
            self._verified[digest] = _stats(folder)
        return folder

    def verify(self, digest: str) -> None:
        """Read every byte of an artifact from the store, past the cache, and raise `ArtifactError` at the first wrong one."""
        manifest = self.manifest(digest)
        with storage_errors(self.cache), _Scratch(self.cache) as scratch:
            self._fetch_all(digest, manifest, scratch, link=False)

    def _put_blob(self, path: Path) -> FileEntry:
        before = path.stat()
        sha256 = file_sha256(path)
        name = _blob_name(sha256)
        if name in self._corrupt or self.store.size(name) != before.st_size:
            self.store.put_file(name, path)
            self._corrupt.discard(name)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ArtifactError(
                expected="a file that no longer changes",
                found="a file that was written while it was stored",
                where=str(path),
                action="finish writing before the artifact is committed",
            )
        return FileEntry(sha256=sha256, size=before.st_size)

    def _put_object(self, name: str, data: bytes) -> None:
        if name in self._corrupt or self.store.size(name) != len(data):
            self.store.put_bytes(name, data)
            self._corrupt.discard(name)

    def _is_intact(self, folder: Path, manifest: Manifest) -> bool:
        found = tree(folder)
        if {p: f.stat().st_size for p, f in found.items()} != {p: e.size for p, e in manifest.files.items()}:
            return False
        hashes = _parallel(file_sha256, found.values())
        return all(h == manifest.files[p].sha256 for p, h in zip(found, hashes, strict=True))

    def _materialise(self, digest: str, manifest: Manifest, folder: Path) -> None:
        """Fill a scratch folder and rename it into place, moving a damaged one out of the way."""
        with _Scratch(self.cache) as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            self._fetch_all(digest, manifest, fresh, link=True)
            for _ in range(3):
                try:
                    fresh.rename(folder)  # fails when another process was first, and for a damaged folder
                    return
                except OSError:
                    if not folder.is_dir():
                        raise
                if self._is_intact(folder, manifest):
                    return
                folder.rename(scratch / secrets.token_hex(4))
            fresh.rename(folder)

    def _fetch_all(self, digest: str, manifest: Manifest, folder: Path, *, link: bool) -> None:
        def fetch(item: tuple[str, FileEntry]) -> None:
            path, entry = item
            self._fetch(digest, path, entry, folder / path, link)

        for parent in {(folder / path).parent for path in manifest.files}:
            parent.mkdir(parents=True, exist_ok=True)
        _parallel(fetch, manifest.files.items())

    def _fetch(self, digest: str, path: str, entry: FileEntry, target: Path, link: bool) -> None:
        name = _blob_name(entry.sha256)
        where = f"{path} of {digest}"
        if self.store.size(name) is None:
            raise ArtifactError(
                expected=f"blob {name}", found="nothing", where=f"{where} in {self.store.uri}", action=_REPAIR
            )
        if not (link and isinstance(self.store, LocalStore) and self.store.link_file(name, target)):
            self.store.get_file(name, target)
            target.chmod(0o444)
        found = file_sha256(target)
        if found != entry.sha256:
            with self._lock:
                self._corrupt.add(name)
            size = target.stat().st_size
            raise _mismatch(f"{entry.sha256} ({entry.size} bytes)", path, digest, f"{found} ({size} bytes)")


_REPAIR = "run the stage that wrote it again (its output is stored anew), or restore the store from a copy"


def _mismatch(expected: str, file: str, artifact: str, found: str) -> ArtifactError:
    return ArtifactError(expected=f"digest {expected}", found=found, where=f"{file} of {artifact}", action=_REPAIR)


class _Scratch:
    """A temporary folder inside the cache, removed on exit."""

    def __init__(self, cache: Path) -> None:
        self.path = cache / ".tmp" / secrets.token_hex(8)

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.path)


def _parallel(function: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Return the results in order; the first failure is raised."""
    work = list(items)
    if len(work) < 2:
        return [function(item) for item in work]
    with ThreadPoolExecutor(min(_NUM_THREADS, len(work))) as pool:
        return list(pool.map(function, work))


def _stats(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of every file: cheap evidence that verified files were left alone."""
    if not folder.is_dir():
        return {"": (-1, -1)}
    return {path: (s.st_size, s.st_mtime_ns) for path, file in tree(folder).items() for s in [file.stat()]}


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _HEX.fullmatch(value):
        raise ArtifactError(
            expected="a digest 'sha256:<64 hex digits>'",
            found=repr(digest[:100]),
            where="artifact",
            action="correct the digest",
        )
    return value


def _blob_name(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _manifest_name(digest: str) -> str:
    value = _hex(digest)
    return f"manifests/{value[:2]}/{value}.json"
