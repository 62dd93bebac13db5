"""Content-addressed artifacts: `put` stores a folder and returns its digest, `get` takes a digest and returns a folder.

Blobs are stored at `blobs/ab/<sha256>` and manifests at `manifests/ab/<sha256>.json`. The manifest is written last. So if
the manifest of an artifact is in the store, all its blobs are there too. Bytes are hashed whenever they leave the store.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from instar.errors import ArtifactError, ConfigError, UnavailableError
from instar.manifest import FileEntry, Manifest, blob_name, digest_hex, file_sha256, manifest_name, tree
from instar.store import LocalStore, ObjectStore
from instar.store_files import remove_stale, storage_errors

T = TypeVar("T")
_NUM_THREADS = 4


class Cas:
    """Artifacts in a store, with a cache of folders on local disk. Threads and processes may share both.

    `put` does not upload a blob that is already in the store with the right size. If this process has seen that the stored
    blob is corrupt, `put` uploads it again.
    """

    def __init__(self, store: ObjectStore, cache: Path) -> None:
        self.store, self.cache = store, Path(cache).absolute()
        self._verified: dict[str, dict[str, tuple[int, int]]] = {}
        self._corrupt: set[str] = set()

    def put(self, folder: Path, type: str, metadata: Mapping[str, Any] | None = None) -> str:
        """Store a folder and return its digest. Raise `ArtifactError` if a file changes while it is stored."""
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
                action="use only text, true, false, null, finite numbers, and lists or tables of these",
            ) from error
        self._put_object(manifest_name(manifest.digest), data)
        return manifest.digest

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest of an artifact."""
        name = manifest_name(digest)
        for seen in _twice():
            data = self.store.read(name)
            actual = "sha256:" + hashlib.sha256(data).hexdigest()
            if actual == digest:
                return Manifest.from_json(data, f"{self.store.uri}/{name}")
            self._refuse(name, "its manifest", digest, digest, actual, seen)
        raise AssertionError

    def get(self, digest: str) -> Path:
        """Return the artifact as a folder of read-only files in the cache.

        Files from the store are always hashed. Files from the cache are hashed once per process. A damaged folder in the
        cache is fetched again, once. Damage in the store raises `ArtifactError`.
        """
        folder = self.cache / digest_hex(digest)
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
        """Read every byte of an artifact from the store, without the cache. Raise `ArtifactError` if a byte is wrong."""
        manifest = self.manifest(digest)
        with storage_errors(self.cache), _Scratch(self.cache) as scratch:
            self._fetch_all(digest, manifest, scratch, link=False)

    def has(self, digest: str) -> bool:
        """Return whether the store has the manifest of an artifact and every file in the right size.

        Only the manifest is downloaded; the files are not.
        """
        if not self.store.exists(manifest_name(digest)):
            return False
        files = self.manifest(digest).files.values()
        return all(_parallel(lambda e: self.store.size(blob_name(e.sha256)) == e.size, files))

    def _put_blob(self, path: Path) -> FileEntry:
        before = path.stat()
        sha256 = file_sha256(path)
        name = blob_name(sha256)
        if name in self._corrupt or self.store.size(name) != before.st_size:
            self.store.put_file(name, path)
            self._corrupt.discard(name)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ArtifactError(
                expected="a file that does not change while it is stored",
                found="a file that was written in the meantime",
                where=str(path),
                action="finish writing before the artifact is committed",
            )
        return FileEntry(sha256=sha256, size=before.st_size)

    def _put_object(self, name: str, data: bytes) -> None:
        if name in self._corrupt or self.store.size(name) != len(data):
            self.store.put_bytes(name, data)
            self._corrupt.discard(name)

    def _is_intact(self, folder: Path, manifest: Manifest) -> bool:
        files = tree(folder)
        if {p: f.stat().st_size for p, f in files.items()} != {p: e.size for p, e in manifest.files.items()}:
            return False
        hashes = _parallel(file_sha256, files.values())
        return all(h == manifest.files[p].sha256 for p, h in zip(files, hashes, strict=True))

    def _materialise(self, digest: str, manifest: Manifest, folder: Path) -> None:
        """Fill a scratch folder and rename it into place. A damaged folder at that place is moved away first."""
        with _Scratch(self.cache) as scratch:
            fresh = scratch / "fresh"
            fresh.mkdir()
            self._fetch_all(digest, manifest, fresh, link=True)
            for _ in range(3):
                try:
                    fresh.rename(folder)  # fails if another process was first, or if a damaged folder is there
                    return
                except OSError:
                    if not folder.is_dir():
                        raise
                if self._is_intact(folder, manifest):
                    return
                with suppress(FileNotFoundError):
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
        name = blob_name(entry.sha256)
        for seen in _twice():
            self._take(digest, path, name, target, link)
            actual = file_sha256(target)
            if actual == entry.sha256:
                return
            size = target.stat().st_size
            target.unlink()
            expected = f"{entry.sha256} ({entry.size} bytes)"
            self._refuse(name, path, digest, expected, f"{actual} ({size} bytes)", seen)

    def _take(self, digest: str, path: str, name: str, target: Path, link: bool) -> None:
        try:
            if not (link and isinstance(self.store, LocalStore) and self.store.link_file(name, target)):
                self.store.get_file(name, target)
                target.chmod(0o444)
        except ArtifactError as error:
            where = f"{path} of {digest} in {self.store.uri}"
            raise ArtifactError(
                expected=f"blob {name}", found=error.found, where=where, action=_repair(self.store, name)
            ) from error

    def _refuse(self, name: str, file: str, artifact: str, expected: str, found: str, seen: list[str]) -> None:
        """Remember the first wrong reading in `seen`; raise at the second.

        Two equal wrong readings mean that the store is damaged. Two different ones mean that the bytes change on the way, for
        example in faulty memory. The store may be right in that case, so the error does not ask to delete anything.
        """
        seen.append(found)
        if len(seen) == 1:
            return
        where = f"{file} of {artifact} in {self.store.uri}"
        if seen[0] != seen[1]:
            raise UnavailableError(
                expected=f"digest {expected}",
                found=f"{seen[0]}, then {seen[1]}",
                where=where,
                action="check the memory of this machine and the network between it and the store, then run again",
            )
        self._corrupt.add(name)
        raise ArtifactError(
            expected=f"digest {expected}", found=f"{found}, read twice", where=where, action=_repair(self.store, name)
        )


def _twice() -> Iterator[list[str]]:
    """Yield the same list for two attempts. It holds what earlier attempts have read."""
    seen: list[str] = []
    yield seen
    yield seen


def _repair(store: ObjectStore, name: str) -> str:
    return f"delete {store.uri}/{name} and run the stage that wrote it again, or restore the store from a copy"


class _Scratch:
    """A temporary folder inside the cache, removed on exit."""

    def __init__(self, cache: Path) -> None:
        self.path = cache / ".tmp" / secrets.token_hex(8)

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True)
        remove_stale(self.path.parent)
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
    """Return size and modification time of every file. If they are unchanged, the verified files were not written since."""
    if not folder.is_dir():
        return {"": (-1, -1)}
    return {path: (s.st_size, s.st_mtime_ns) for path, file in tree(folder).items() for s in [file.stat()]}
