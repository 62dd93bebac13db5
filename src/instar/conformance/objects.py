"""The unconditional checks of `instar.conformance`: objects can be read whole, at once, and under their own names.

A check takes a store and returns a few words about what it saw. It raises `Broken` if the store breaks the promise in the
check's docstring.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from instar.conformance.tools import FOLDER, RACERS, Broken, expect, fresh, is_refused, tagged, through_files, together
from instar.errors import ArtifactError
from instar.store import LocalStore, ObjectStore

ODD_NAMES = ("case", "CASE", "0", "-", "_", "=a=", "a..b.", "x" * 200, "/".join("deep" for _ in range(40)))
_PARTS_BYTES = (17 << 20) + 3


def put_and_read(store: ObjectStore) -> str:
    """A read returns the bytes that were written."""
    name, data = f"{FOLDER}/bytes", secrets.token_bytes(16) + bytes(range(256)) * 64
    store.put_bytes(name, data)
    expect(store.read(name) == data, "other bytes than were written")
    return "all byte values"


def size_and_exists(store: ObjectStore) -> str:
    """The store knows the size of an object and whether it exists, without a read."""
    name, size = f"{FOLDER}/size", 1001 + 2 * secrets.randbelow(500)
    store.put_bytes(name, bytes(size))
    stored = store.size(name)
    expect(stored == size and store.exists(name), f"size {stored} of an object of {size} bytes")
    return f"{size} bytes"


def missing_object(store: ObjectStore) -> str:
    """Every call reports an object that was never written as missing, and not as an error of the service."""
    name = f"{FOLDER}/never-written"
    expect(not store.exists(name) and store.size(name) is None, "an object that nobody wrote")
    expect(store.read_tagged(name) is None, "bytes of an object that nobody wrote")
    try:
        store.read(name)
    except ArtifactError:
        return "named as missing"
    raise Broken("bytes of an object that nobody wrote")


def empty_object(store: ObjectStore) -> str:
    """An object without bytes exists and can be read."""
    name = f"{FOLDER}/empty"
    store.put_bytes(name, b"")
    expect(store.exists(name) and store.size(name) == 0 and store.read(name) == b"", "no empty object")
    expect(tagged(store, name).data == b"", "an empty object with bytes")
    return "kept"


def odd_names(store: ObjectStore) -> str:
    """Every valid name is an object of its own: for example with upper case, several dots, 200 characters or 40 folders."""
    names = [f"{FOLDER}/names/{name}" for name in ODD_NAMES]
    for name in names:
        store.put_bytes(name, name.encode())
    other = [name[:60] for name in names if store.read(name) != name.encode()]
    expect(not other, f"the bytes of another object at {', '.join(other)}")
    unlisted = [name[:60] for name in set(names) - set(store.list(f"{FOLDER}/names/"))]
    expect(not unlisted, f"names that are not listed: {', '.join(unlisted)}")
    return f"{len(names)} names"


def file_in_and_out(store: ObjectStore) -> str:
    """A file can be stored and fetched."""
    name, data = f"{FOLDER}/file", os.urandom(100_001)
    expect(through_files(store, name, data) == data, "other bytes than were written")
    return f"{len(data)} bytes"


def object_in_parts(store: ObjectStore) -> str:
    """An object larger than one part is uploaded and read in parts, and is whole afterwards."""
    name, data = f"{FOLDER}/parts", os.urandom(_PARTS_BYTES)
    try:
        expect(through_files(store, name, data) == data, "other bytes than were written")
        expect(store.size(name) == len(data), f"size {store.size(name)} of an object of {len(data)} bytes")
    finally:
        store.put_bytes(name, b"")
    return f"{len(data)} bytes"


def parallel_writes(store: ObjectStore) -> str:
    """Writers of different objects do not disturb each other."""
    run = secrets.token_bytes(8)
    names = [f"{FOLDER}/parallel/{i:02d}" for i in range(RACERS)]
    together(RACERS, lambda i: store.put_bytes(names[i], run + names[i].encode()))
    wrong = [name for name in names if store.read(name) != run + name.encode()]
    expect(not wrong, f"{len(wrong)} of {RACERS} objects with other bytes")
    return f"{RACERS} at once"


def overwrite(store: ObjectStore) -> str:
    """A second write replaces the whole object, even if it is shorter."""
    name = f"{FOLDER}/overwrite"
    store.put_bytes(name, bytes(10_000))
    store.put_bytes(name, b"new")
    expect((store.read(name), store.size(name)) == (b"new", 3), "more than the second write")
    return "replaced"


def overwrite_under_reader(store: ObjectStore) -> str:
    """A reader sees one whole version while others overwrite the object. It never sees a mixture, a part or nothing."""
    name, done = f"{FOLDER}/overwrite-read", threading.Event()

    def write() -> None:
        try:
            for i in range(20):
                store.put_bytes(name, bytes([i]) * 200_000)
        finally:
            done.set()

    store.put_bytes(name, bytes(200_000))
    reads = 0
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not (done.is_set() and reads):
            data = store.read(name)
            expect(len(data) == 200_000 and len(set(data)) == 1, "a mixture or a part of two versions")
            reads += 1
        writer.result()
    return f"20 writes, {reads} reads"


def read_your_write(store: ObjectStore) -> str:
    """As soon as a write has returned, every reader gets its bytes."""
    name = f"{FOLDER}/fresh"
    with ThreadPoolExecutor(1) as other:
        for i in range(20):
            data = secrets.token_bytes(16)
            store.put_bytes(name, data)
            seen = other.submit(store.read, name).result()
            expect(seen == data and tagged(store, name).data == data, f"older bytes after write {i + 1} of 20")
    return "20 of 20"


def list_by_prefix(store: ObjectStore) -> str:
    """A listing has exactly the names that begin with the prefix, in order."""
    names = [f"{FOLDER}/list/{name}" for name in ("aa", "ab", "b/c")]
    for name in reversed(names):
        store.put_bytes(name, b"")
    for prefix, expected in (("list/", names), ("list/a", names[:2]), ("list/b", names[2:]), ("list/c", [])):
        listed = store.list(f"{FOLDER}/{prefix}")
        expect(listed == expected, f"{len(listed)} names below '{prefix}' where {len(expected)} begin so")
    return "4 prefixes"


def list_after_write(store: ObjectStore) -> str:
    """As soon as a write has returned, the new name is listed."""
    name = fresh()
    store.put_bytes(name, b"")
    expect(name in store.list(f"{FOLDER}/created/"), "a new object that is not listed")
    return "listed"


def strangers_refused(store: ObjectStore) -> str:
    """A service refuses a wrong key. In a folder, objects are files that only their owner may write."""
    name = f"{FOLDER}/key"
    store.put_bytes(name, b"owner")
    if isinstance(store, LocalStore):
        mode = (store.root / name).stat().st_mode & 0o777
        expect(mode & 0o022 == 0, f"objects with mode {mode:03o}: others may write them")
        return f"objects have mode {mode:03o}"
    from instar.store_s3 import S3Store

    assert isinstance(store, S3Store)
    stranger = store.with_wrong_key()
    calls: dict[str, Callable[[], object]] = {
        "write": lambda: stranger.put_bytes(name, b"stranger"),
        "conditional write": lambda: stranger.create(fresh(), b"stranger"),
        "read": lambda: stranger.read(name),
    }
    let_in = [word for word, call in calls.items() if not is_refused(call)]
    expect(not let_in, f"a wrong secret key that may {', '.join(let_in)}")
    return "wrong secret key"
