"""Manifests: the files of an artifact by digest, and the names under which a store keeps them.

The digest of an artifact is `"sha256:"` and the SHA-256 of the manifest's canonical JSON. It depends on the type, the
metadata, and the names and bytes of the files, and on nothing else. For example, file modes, times and empty folders do not
change it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from instar import plain
from instar.config import dumps
from instar.errors import ArtifactError

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of an artifact: SHA-256 as hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of an artifact. `files` maps relative POSIX paths to digests and sizes."""

    type: str
    files: Mapping[str, FileEntry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return canonical JSON: sorted keys, no blanks, ASCII. NaN in metadata raises `ValueError`."""
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
        """Parse a manifest.

        Raise `ArtifactError` unless the bytes are exactly those that `to_json` writes and every path stays inside its folder.
        """
        try:
            value = plain.loads(data)
            files = {str(path): FileEntry(sha256=e["sha256"], size=e["size"]) for path, e in value["files"].items()}
            manifest = Manifest(type=value["type"], files=files, metadata=value["metadata"])
            valid = manifest.to_json() == data and all(
                _is_safe(p) and _HEX.fullmatch(e.sha256) for p, e in files.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad_manifest(f"{type(error).__name__}: {error}", where) from error
        if not valid:
            raise _bad_manifest("bytes that are not canonical, or a path that is not safe", where)
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
    """Return relative POSIX path -> file, sorted. Links to files are followed. Anything else, such as a pipe, is refused."""
    paths: dict[str, Path] = {}
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
            paths[path.relative_to(folder).as_posix()] = path
    return dict(sorted(paths.items()))


def _raise(error: OSError) -> None:
    raise error


def digest_hex(digest: str) -> str:
    """Return the hex part of an artifact digest."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _HEX.fullmatch(value):
        raise ArtifactError(
            expected="a digest 'sha256:<64 hex digits>'",
            found=repr(digest[:100]),
            where="artifact",
            action="correct the digest",
        )
    return value


def blob_name(sha256: str) -> str:
    """Return the object name of a file's bytes."""
    return f"blobs/{sha256[:2]}/{sha256}"


def manifest_name(digest: str) -> str:
    """Return the object name of an artifact's manifest."""
    value = digest_hex(digest)
    return f"manifests/{value[:2]}/{value}.json"


def manifest_of(folder: Path, type: str, metadata: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest of a folder without storing anything."""
    files = {path: FileEntry(sha256=file_sha256(f), size=f.stat().st_size) for path, f in tree(folder).items()}
    return Manifest(type=type, files=files, metadata=metadata or {})
