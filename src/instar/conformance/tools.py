"""What the checks of `instar.conformance` share: their exception, new names, and calls in several threads at once."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from instar.errors import StorageError
from instar.store import ObjectStore, Tagged

T = TypeVar("T")
FOLDER = "instar-conformance"
RACERS = 16


class Broken(Exception):
    """The store breaks a promise. The message says what was found instead."""


def expect(holds: bool, found: str) -> None:
    """Raise `Broken` unless `holds`."""
    if not holds:
        raise Broken(found)


def fresh() -> str:
    """Return a name that nobody has used before."""
    return f"{FOLDER}/created/{secrets.token_hex(8)}"


def tagged(store: ObjectStore, name: str) -> Tagged:
    """Return an object and its tag. The object must exist."""
    stored = store.read_tagged(name)
    if stored is None:
        raise Broken("no object, although it was just written")
    return stored


def through_files(store: ObjectStore, name: str, data: bytes) -> bytes:
    """Store `data` from a file and return what `get_file` writes."""
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.write_bytes(data)
        store.put_file(name, source)
        store.get_file(name, target)
        return target.read_bytes()


def is_refused(call: Callable[[], object]) -> bool:
    """Return whether the service refuses a call."""
    try:
        call()
    except StorageError:
        return True
    return False


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)` to `work(count - 1)` in threads that start at the same time."""
    barrier = threading.Barrier(count)

    def start(i: int) -> T:
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
