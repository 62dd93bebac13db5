"""Object stores: named bytes that appear whole or not at all, on a local disk or in an S3-compatible service.

Invariants of every store:
1. A reader never sees a half-written object. Overwriting is allowed and atomic.
2. `create` succeeds for exactly one of many racing callers, across threads, processes and machines.
3. Of many racing `swap` calls with one tag exactly one succeeds, unless the bytes it wrote are those it replaced.
4. What a call returned for is durable (`LocalStore(durable=False)` gives that up for speed).
Names are relative POSIX paths of a narrow alphabet, so that one name means the same thing on a disk and in a bucket.
"""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import Protocol

from instar.errors import ConfigError
from instar.store_files import Tagged
from instar.store_local import LocalStore

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
__all__ = ["LocalStore", "ObjectStore", "Tagged", "open_store"]


class ObjectStore(Protocol):
    """Atomic named objects. Methods raise `ConfigError` for a bad name, `ArtifactError` for a missing object,
    `StorageError` for what trying again cannot cure and `UnavailableError` for what it can."""

    uri: str

    def put_file(self, name: str, path: Path) -> None:
        """Store the bytes of the file `path`, replacing what was there."""
        ...

    def put_bytes(self, name: str, data: bytes) -> None:
        """Store `data`, replacing what was there."""
        ...

    def get_file(self, name: str, path: Path) -> None:
        """Write the object to the file `path`, which appears whole or not at all."""
        ...

    def read(self, name: str) -> bytes:
        """Return the bytes of an object."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether the object is there."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size in bytes, or None when there is no such object."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Store `data` unless the name is taken. True for the one caller whose bytes are stored, otherwise False."""
        ...

    def read_tagged(self, name: str) -> Tagged | None:
        """Return the bytes of an object with the tag of that version, or None when there is no such object."""
        ...

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Replace an object with `data` if it still has `tag`. False when it has another one or is gone.

        A tag belongs to the bytes, so the objects moved this way carry a counter and never repeat their bytes; and
        whoever moves an object by `swap` never moves it by `put_*`, which ask nobody. False can also mean that this call
        won, its answer was lost and a later `swap` has replaced its bytes: read again before concluding anything.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names that begin with `prefix`, relative to the store, not to the prefix."""
        ...


def open_store(uri: str) -> ObjectStore:
    """Open `PATH`, `file:///PATH` or `s3://BUCKET/PREFIX`.

    S3 reads its endpoint and credentials from the environment (`INSTAR_S3_ENDPOINT`, `AWS_ACCESS_KEY_ID`,
    `AWS_SECRET_ACCESS_KEY`, optional `AWS_SESSION_TOKEN` and `AWS_REGION`), never from the URI.
    """
    scheme, separator, _ = uri.partition("://")
    if not uri or CONTROL.search(urllib.parse.unquote(uri)):
        raise _bad_uri("a control character" if uri else "an empty text")
    if not separator:
        return LocalStore(Path(uri))
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise _bad_uri(f"a host that is none ({error})") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _bad_uri(f"a {scheme}:// URI that carries credentials, a query or a fragment")
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise _bad_uri(f"host '{parts.netloc}' in a file URI")
        if not parts.path:
            raise _bad_uri("a file URI without a path")
        return LocalStore(Path(urllib.parse.unquote(parts.path)))
    if scheme != "s3":
        raise _bad_uri(f"scheme '{scheme}'")
    from instar.store_endpoint import endpoint_from_environment
    from instar.store_s3 import S3Store

    return S3Store(parts.netloc, parts.path.strip("/"), endpoint=endpoint_from_environment())


def _bad_uri(found: str) -> ConfigError:
    return ConfigError(
        expected="a path, file:///PATH or s3://BUCKET/PREFIX",
        found=found,
        where="store URI",
        action="correct it; put endpoint and credentials in INSTAR_S3_ENDPOINT and the AWS_* variables",
    )
