"""Each of the twenty checks notices the store that breaks its promise, and no other check is blamed for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar.conformance import CHECKS, PROBE, Result, require, require_conditional, run
from instar.errors import StorageError, UnavailableError
from instar.store import LocalStore, Tagged


def is_worker() -> bool:
    return threading.current_thread() is not threading.main_thread()


class ChangesBytes(LocalStore):
    def read(self, name: str) -> bytes:
        return super().read(name).replace(bytes(range(256)), bytes(256))


class SizesInBlocks(LocalStore):
    def size(self, name: str) -> int | None:
        size = super().size(name)
        return None if size is None else -(-size // 512) * 512


class InventsObjects(LocalStore):
    def read(self, name: str) -> bytes:
        return super().read(name) if self.exists(name) else b""


class DropsEmptyObjects(LocalStore):
    def put_bytes(self, name: str, data: bytes) -> None:
        if data:
            super().put_bytes(name, data)


class FoldsCase(LocalStore):
    def _path(self, name: str) -> Path:
        return super()._path(name.lower())


class TruncatesFiles(LocalStore):
    def put_file(self, name: str, path: Path) -> None:
        self.put_bytes(name, path.read_bytes()[: 1 << 16])


class LosesTheSecondPart(LocalStore):
    def get_file(self, name: str, path: Path) -> None:
        path.write_bytes(self.read(name)[: 16 << 20])


class SharesItsBuffer(LocalStore):
    """The sixteen writers fill one buffer before any of them stores it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.buffer, self.barrier = b"", threading.Barrier(16)

    def put_bytes(self, name: str, data: bytes) -> None:
        if "/parallel/" in name:
            self.buffer = data
            self.barrier.wait(20)
            data = self.buffer
        super().put_bytes(name, data)


class WritesInPlace(LocalStore):
    def put_bytes(self, name: str, data: bytes) -> None:
        old = self.read(name) if self.exists(name) else b""
        super().put_bytes(name, data + old[len(data) :])


class ReadsInHalves(LocalStore):
    """A reader of the object that is being overwritten waits for newer bytes between two halves."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.version, self.reading, self.changed = 0, threading.Event(), threading.Condition()

    def put_bytes(self, name: str, data: bytes) -> None:
        if name.endswith("/overwrite-read"):
            assert self.version == 0 or self.reading.wait(20)
            with self.changed:
                super().put_bytes(name, data)
                self.version += 1
                self.changed.notify_all()
        else:
            super().put_bytes(name, data)

    def read(self, name: str) -> bytes:
        if not name.endswith("/overwrite-read"):
            return super().read(name)
        first = super().read(name)[:100_000]
        self.reading.set()
        with self.changed:
            assert self.changed.wait_for(lambda: self.version > 2, 20)
            return first + super().read(name)[100_000:]


class ReadsFromACache(LocalStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.cache: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        return self.cache.setdefault(name, super().read(name))


class ListsFolders(LocalStore):
    def list(self, prefix: str) -> list[str]:
        return super().list(prefix[: prefix.rfind("/") + 1])


class ListsLate(LocalStore):
    """What was written last is not listed yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.last = ""

    def put_bytes(self, name: str, data: bytes) -> None:
        super().put_bytes(name, data)
        self.last = name

    def list(self, prefix: str) -> list[str]:
        return [name for name in super().list(prefix) if name != self.last]


class IsOpenToAll(LocalStore):
    def put_bytes(self, name: str, data: bytes) -> None:
        super().put_bytes(name, data)
        (self.root / name).chmod(0o666)


class OverwritesOnCreate(LocalStore):
    def create(self, name: str, data: bytes) -> bool:
        self.put_bytes(name, data)
        return True


class CreatesInTwoSteps(LocalStore):
    """Racers all look before any of them writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.barrier = threading.Barrier(16)

    def create(self, name: str, data: bytes) -> bool:
        if self.exists(name):
            return False
        if is_worker():
            self.barrier.wait(20)
        self.put_bytes(name, data)
        return True


class RefusesSwaps(LocalStore):
    def swap(self, name: str, data: bytes, tag: str) -> bool:
        return False


class TagsByName(LocalStore):
    """A tag that says nothing about the version; the tag that never was is still refused."""

    def read_tagged(self, name: str) -> Tagged | None:
        found = super().read_tagged(name)
        return None if found is None else Tagged(data=found.data, tag=name)


class SwapsInTwoSteps(LocalStore):
    """The writers of one counter all look before any of them writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.barrier, self.met = threading.Barrier(8), threading.local()

    def matches(self, found: Tagged | None, tag: str) -> bool:
        return found is not None and found.tag == tag

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        if not self.matches(self.read_tagged(name), tag):
            return False
        if is_worker() and not hasattr(self.met, "once"):
            self.met.once = self.barrier.wait(20)
        self.put_bytes(name, data)
        return True


class IgnoresTags(SwapsInTwoSteps):
    def matches(self, found: Tagged | None, tag: str) -> bool:
        return found is not None


class MakesWhatItSwaps(SwapsInTwoSteps):
    """Only a missing object gets past the condition; the rest is a plain store's swap."""

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        if self.exists(name):
            return LocalStore.swap(self, name, data, tag)
        self.put_bytes(name, data)
        return True


PLANTED: dict[type[LocalStore], set[str]] = {
    ChangesBytes: {"put and read"},
    SizesInBlocks: {"size and exists", "object in parts", "overwrite"},
    InventsObjects: {"missing object"},
    DropsEmptyObjects: {"empty object", "list by prefix", "list after write"},
    FoldsCase: {"names"},
    TruncatesFiles: {"file in and out", "object in parts"},
    LosesTheSecondPart: {"object in parts"},
    SharesItsBuffer: {"parallel writes"},
    WritesInPlace: {"overwrite"},
    ReadsInHalves: {"overwrite under a reader"},
    ReadsFromACache: {"read your write"},
    ListsFolders: {"list by prefix"},
    ListsLate: {"names", "list by prefix", "list after write"},
    IsOpenToAll: {"strangers refused"},
    OverwritesOnCreate: {"create once", "create, 16 racers"},
    CreatesInTwoSteps: {"create, 16 racers"},
    RefusesSwaps: {"swap, right tag", "swap, 8 writers x 10"},
    TagsByName: {"swap, right tag", "swap, wrong tag", "swap, 8 writers x 10"},
    SwapsInTwoSteps: {"swap, 8 writers x 10"},
    IgnoresTags: {"swap, wrong tag", "swap, 8 writers x 10"},
    MakesWhatItSwaps: {"swap, missing object"},
}


def failed(results: list[Result]) -> set[str]:
    return {result.name for result in results if not result.passed}


@pytest.mark.parametrize("store", PLANTED, ids=lambda s: s.__name__)
def test_a_broken_promise_fails_its_checks_and_no_others(store: type[LocalStore], tmp_path: Path) -> None:
    results = list(run(store(tmp_path)))
    assert failed(results) == PLANTED[store]
    with pytest.raises(StorageError, match=f"{len(PLANTED[store])} failed: ") as caught:
        require(results, "here")
    assert all(name in caught.value.found for name in PLANTED[store])


def test_every_check_is_failed_by_some_store() -> None:
    names = [name for name, _, _ in CHECKS]
    assert len(names) == len(set(names)) == 20
    assert set().union(*PLANTED.values()) == set(names)


def test_a_folder_passes_and_is_not_filled_by_repetition(tmp_path: Path) -> None:
    store, sizes = LocalStore(tmp_path), []
    for _ in range(3):
        results = list(run(store))
        assert [r.name for r in results] == [name for name, _, _ in CHECKS]
        assert failed(results) == set() and all(r.detail and r.needed_for for r in results)
        require(results, store.uri)
        sizes.append((len(store.list("")), sum(store.size(name) or 0 for name in store.list(""))))
    assert sizes[1][0] - sizes[0][0] == sizes[2][0] - sizes[1][0] == 3
    assert sizes[2][1] < 1 << 20  # the large object is emptied
    assert all(name.startswith("instar-conformance/") for name in store.list(""))


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (OverwritesOnCreate, "second create .* succeeded"),
        (IgnoresTags, "wrong tag that succeeded"),
        (RefusesSwaps, "no swap with the right tag"),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "",
)
def test_the_short_form_refuses_a_store_that_ignores_conditions(
    store: type[LocalStore], found: str, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match=found):
            require_conditional(store(tmp_path))


def test_the_short_form_may_run_many_times_at_once(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(8), []

    def submit() -> None:
        barrier.wait()
        try:
            for _ in range(5):
                require_conditional(LocalStore(tmp_path))
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert LocalStore(tmp_path).list("") == [PROBE]


class IsDown(LocalStore):
    def read(self, name: str) -> bytes:
        raise UnavailableError(expected="an answer", found="none", where=name, action="wait")


def test_a_service_that_is_down_has_failed_no_check(tmp_path: Path) -> None:
    results: Iterator[Result] = run(IsDown(tmp_path))
    with pytest.raises(UnavailableError):
        next(results)


def test_an_error_of_the_store_fails_the_check_that_met_it(tmp_path: Path) -> None:
    (tmp_path / "instar-conformance" / "bytes" / "in-the-way").mkdir(parents=True)
    results = {result.name: result for result in run(LocalStore(tmp_path))}
    assert failed(list(results.values())) == {"put and read"}
    assert results["put and read"].detail == "StorageError: EISDIR: Is a directory"
