"""`LocalStore.swap`: one winner per version, whoever asks and whoever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.errors import ConfigError, StorageError
from instar.store import LocalStore, Tagged

COUNT = """
import sys
from pathlib import Path
from instar.store import LocalStore
for line in sys.stdin:
    root, *names = line.split()
    store, won = LocalStore(Path(root), durable=False), []
    for name in names:
        while True:
            seen = store.read_tagged(name)
            if store.swap(name, b"%d" % (int(seen.data) + 1), seen.tag):
                won.append(f"{name}={int(seen.data) + 1}")
                break
    print(*won, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="module")
def counters() -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that increment the counters they are told, a line at a time."""
    command = [sys.executable, "-c", COUNT]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    yield workers
    for worker in workers:
        worker.communicate(timeout=20)
        assert worker.returncode == 0


@settings(max_examples=40, deadline=None)
@given(work=st.lists(st.lists(st.sampled_from(["a", "b", "d/c"]), max_size=12), min_size=4, max_size=4))
def test_processes_that_count_by_swap_lose_and_repeat_nothing(
    counters: list[subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory, work: list[list[str]]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("s"), durable=False)
    for name in ("a", "b", "d/c"):
        assert store.create(name, b"0")
    for worker, names in zip(counters, work, strict=True):
        assert worker.stdin is not None
        worker.stdin.write(f"{store.root} {' '.join(names)}\n")
    won = [str(w.stdout.readline()).split() for w in counters if w.stdout is not None]
    for name in ("a", "b", "d/c"):
        total = sum(names.count(name) for names in work)
        values = sorted(int(v) for line in won for n, v in (w.split("=") for w in line) if n == name)
        assert values == list(range(1, total + 1))
        assert store.read(name) == b"%d" % total
    assert list((store.root / ".tmp").iterdir()) == []


def test_a_killed_writer_leaves_no_lock_and_no_half_object(store: LocalStore) -> None:
    script = """
import sys
from pathlib import Path
from instar.store import LocalStore
store, n = LocalStore(Path(sys.argv[1])), 0
while True:
    tag = store.read_tagged("head").tag
    n += 1
    assert store.swap("head", b"%06d" % n * 50_000, tag)
    print(n, flush=True)
"""
    for _ in range(3):
        store.put_bytes("head", b"start")
        with subprocess.Popen([sys.executable, "-c", script, str(store.root)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                writer.stdout.readline()
            writer.kill()
            acknowledged = 20 + len(writer.stdout.read().splitlines())
        seen = store.read_tagged("head")
        assert seen is not None and len(seen.data) == 300_000
        assert seen.data == seen.data[:6] * 50_000 and int(seen.data[:6]) in (acknowledged, acknowledged + 1)
        assert store.swap("head", b"next", seen.tag)


def test_a_tag_is_good_for_one_swap(store: LocalStore) -> None:
    store.put_bytes("a/head", b"1")
    first = store.read_tagged("a/head")
    assert first is not None and first == store.read_tagged("a/head") and first.data == b"1"
    assert [store.swap("a/head", data, first.tag) for data in (b"2", b"3", b"1")] == [True, False, False]
    assert store.read("a/head") == b"2"
    store.put_bytes("a/head", b"4")
    assert not store.swap("a/head", b"5", first.tag)
    assert store.list("") == ["a/head"]  # the lock is no object
    assert list((store.root / ".tmp").iterdir()) == []
    assert (store.root / "a" / "head").stat().st_mode & 0o222 == 0


def test_a_swap_makes_no_object(store: LocalStore) -> None:
    store.put_bytes("d/file", b"1")
    for name in ("absent", "d", "d/file/below", "other/absent"):
        assert (store.read_tagged(name), store.swap(name, b"1", "tag")) == (None, False)
    assert store.list("") == ["d/file"]
    assert not LocalStore(store.root / "never-made").swap("a", b"1", "tag")
    assert not (store.root / "never-made").exists()


def test_an_empty_object_has_a_tag(store: LocalStore) -> None:
    store.put_bytes("a", b"")
    empty = store.read_tagged("a")
    assert isinstance(empty, Tagged) and empty.data == b"" and empty.tag
    assert store.swap("a", b"1", empty.tag) and not store.swap("a", b"2", empty.tag)


@pytest.mark.parametrize("name", ["", "..", "a//b", ".lock", ".tmp/x"])
def test_bad_names_are_refused(store: LocalStore, name: str) -> None:
    for call in (lambda: store.read_tagged(name), lambda: store.swap(name, b"", "tag")):
        with pytest.raises(ConfigError, match="object name"):
            call()


def test_a_lock_that_cannot_be_opened_is_named(store: LocalStore) -> None:
    store.put_bytes("a", b"1")
    (store.root / ".lock").mkdir()
    with pytest.raises(StorageError, match="EISDIR"):
        store.swap("a", b"2", "tag")


def test_a_swap_is_durable(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes("d/a", b"1")
    seen, synced, real = store.read_tagged("d/a"), [], os.fsync

    def spy(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    assert seen is not None and store.swap("d/a", b"2", seen.tag)
    assert "/.tmp/" in synced[0] and synced[1] == str(store.root / "d")
