"""Object stores: named bytes that appear whole or not at all, on a local disk or in an S3-compatible service.

Invariants of every store:
1. A reader never sees a half-written object. Overwriting is allowed and atomic.
2. `create` succeeds for exactly one of many racing callers, across threads, processes and machines.
3. If many callers race with `swap` and the same tag, exactly one succeeds. The exception is a `swap` that writes the bytes
   that it replaces: it leaves the tag as it was.
4. When a call returns, its effect is durable. `LocalStore(durable=False)` gives that up for speed.

Names are relative POSIX paths of few characters, so that a name means the same on a disk and in a bucket.
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
    """Atomic named objects.

    Methods raise `ConfigError` for a bad name and `ArtifactError` for a missing object. They raise `UnavailableError` if it
    can help to try again, and `StorageError` if it cannot.
    """

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
        """Store `data` unless the name is taken. Return True for the one caller whose bytes are stored, otherwise False."""
        ...

    def read_tagged(self, name: str) -> Tagged | None:
        """Return the bytes of an object and the tag of that version, or None when there is no such object."""
        ...

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Replace an object with `data` if it still has `tag`. Return False if it has another tag or is gone.

        Callers follow three rules.
        1. A tag depends on the bytes. So objects that are changed by `swap` hold a counter and never repeat their bytes.
        2. An object that is changed by `swap` is never changed by `put_*`, because `put_*` does not look at the tag.
        3. After False, read the object again before you conclude anything. This call may have won and its answer was lost,
           and then a later `swap` replaced its bytes.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names that begin with `prefix`. The names are whole: they include the prefix."""
        ...


def open_store(uri: str) -> ObjectStore:
    """Open `PATH`, `file:///PATH` or `s3://BUCKET/PREFIX`.

    The endpoint and the credentials of S3 come from the environment, never from the URI: `INSTAR_S3_ENDPOINT`,
    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and optionally `AWS_SESSION_TOKEN` and `AWS_REGION`.
    """
    scheme, separator, _ = uri.partition("://")
    if not uri or CONTROL.search(urllib.parse.unquote(uri)):
        raise _bad_uri("a control character" if uri else "an empty text")
    if not separator:
        return LocalStore(Path(uri))
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise _bad_uri(f"a host that is not valid ({error})") from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _bad_uri(f"a {scheme}:// URI with credentials, a query or a fragment")
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
