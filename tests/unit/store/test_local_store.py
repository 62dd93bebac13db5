"""`LocalStore`, object names and `open_store`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.errors import ArtifactError, ConfigError, StorageError
from instar.store import LocalStore, open_store
from instar.store_files import STALE_S, check_name
from instar.store_s3 import S3Store

SEGMENT = st.from_regex(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]{0,12}", fullmatch=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_round_trip_overwrite_and_missing(store: LocalStore, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"abc" * 1000)
    store.put_file("a/b", source)
    assert store.read("a/b") == b"abc" * 1000
    assert (store.size("a/b"), store.exists("a/b"), store.exists("a"), store.size("a/c")) == (3000, True, False, None)
    store.put_bytes("a/b", b"second")
    store.get_file("a/b", target)
    assert target.read_bytes() == b"second"
    assert source.read_bytes() == b"abc" * 1000
    for missing in (lambda: store.read("a/c"), lambda: store.get_file("a/c", target), lambda: store.read("a")):
        with pytest.raises(ArtifactError, match="found nothing"):
            missing()
    with pytest.raises(ArtifactError, match="a file to store"):
        store.put_file("x", tmp_path / "absent")
    assert target.read_bytes() == b"second"


def test_nothing_but_objects_is_left_or_listed(store: LocalStore, tmp_path: Path) -> None:
    store.put_bytes("a", b"1")
    store.create("b", b"2")
    store.create("b", b"3")
    store.get_file("a", tmp_path / "copy")
    assert list((store.root / ".tmp").iterdir()) == []
    assert store.list("") == ["a", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "store"]


def test_objects_are_read_only_files(store: LocalStore) -> None:
    store.put_bytes("a", b"1")
    store.create("b", b"1")
    assert [(store.root / n).stat().st_mode & 0o222 for n in "ab"] == [0, 0]


def test_temporary_files_of_killed_processes_are_removed_after_a_day(store: LocalStore) -> None:
    store.put_bytes("a", b"1")
    old, new = store.root / ".tmp" / "old", store.root / ".tmp" / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    past = time.time() - STALE_S - 60
    os.utime(old, (past, past))
    LocalStore(store.root).put_bytes("a", b"2")
    assert (old.exists(), new.exists()) == (False, True)


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.lists(SEGMENT, min_size=2, max_size=2).map("/".join), max_size=8),
    prefix=st.text("abcAB01/._=-", max_size=4),
)
def test_list_is_the_sorted_set_of_names_with_the_prefix(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], prefix: str
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("s"), durable=False)
    for name in names:
        store.put_bytes(name, name.encode())
    assert store.list("") == sorted(names)
    try:
        found = store.list(prefix)
    except ConfigError:
        assert prefix.startswith((".", "/")) or "/." in prefix or "//" in prefix
    else:
        assert found == sorted(n for n in names if n.startswith(prefix))
    assert all(store.read(n) == n.encode() for n in names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        ".tmp/x",
        "a/.b",
        "a b",
        "a\\b",
        "a\x00",
        "é",
        "a" * 201,
        "a/" * 500 + "a",
    ],
)
def test_bad_names_are_refused_by_every_method(store: LocalStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    calls = [
        lambda: store.put_bytes(name, b""),
        lambda: store.put_file(name, tmp_path / "f"),
        lambda: store.read(name),
        lambda: store.get_file(name, tmp_path / "g"),
        lambda: store.exists(name),
        lambda: store.create(name, b""),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="object name"):
            call()


@given(st.lists(SEGMENT, min_size=1, max_size=5).map("/".join))
def test_names_of_the_alphabet_are_accepted(name: str) -> None:
    assert check_name(name) == name


def test_a_name_below_an_object_is_an_error(store: LocalStore) -> None:
    store.put_bytes("a", b"")
    with pytest.raises(StorageError, match=r"EEXIST|ENOTDIR"):
        store.put_bytes("a/b", b"")


def test_sixteen_racing_threads_one_creator_wins(store: LocalStore) -> None:
    for round_ in range(20):
        barrier, won = threading.Barrier(16), []

        def race(i: int, barrier: threading.Barrier = barrier, won: list[int] = won, name: str = f"n/{round_}") -> None:
            barrier.wait()
            if store.create(name, f"{i}".encode() * 5000):
                won.append(i)

        threads = [threading.Thread(target=race, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read(f"n/{round_}") == f"{won[0]}".encode() * 5000


def test_racing_processes_one_creator_wins_and_no_reader_sees_a_part(store: LocalStore) -> None:
    script = """
import sys, pathlib
from instar.store import LocalStore
store, me = LocalStore(pathlib.Path(sys.argv[1])), sys.argv[2]
sys.stdin.readline()
print(",".join(str(i) for i in range(40) if store.create(f"n/{i}", me.encode() * 300_000)))
"""
    command = [sys.executable, "-c", script, str(store.root)]
    racers = [
        subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    seen: set[str] = set()
    while any(r.poll() is None for r in racers):
        for name in store.list("n/"):
            data = store.read(name)
            assert len(data) == 300_000 and len(set(data)) == 1
            seen.add(name)
    wins = [out.strip().split(",") for out in (r.communicate()[0] for r in racers)]
    claimed = [(int(i), str(me)) for me, won in enumerate(wins) for i in won if i]
    assert all(r.returncode == 0 for r in racers)
    assert sorted(i for i, _ in claimed) == list(range(40))
    assert all(store.read(f"n/{i}")[:1] == me.encode() for i, me in claimed)


def test_overwriting_while_reading_never_shows_a_mixture(store: LocalStore) -> None:
    store.put_bytes("a", b"0" * 200_000)
    stop = threading.Event()

    def write() -> None:
        for i in range(60):
            store.put_bytes("a", str(i % 10).encode() * 200_000)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        data = store.read("a")
        assert len(data) == 200_000 and len(set(data)) == 1
    writer.join()


def test_durable_calls_fsync_on_file_and_folder(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))[1]
    )
    store.put_bytes("new/a", b"1")
    assert any("/.tmp/" in path for path in synced)
    assert {str(store.root), str(store.root / "new")} <= set(synced)
    synced.clear()
    store.create("new/c", b"1")
    assert str(store.root / "new") in synced and any("/.tmp/" in path for path in synced)
    synced.clear()
    LocalStore(store.root, durable=False).put_bytes("new/b", b"1")
    assert synced == []


def test_open_store_of_paths_and_file_uris(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", (tmp_path / "a b").as_uri()):
        store = open_store(uri)
        assert isinstance(store, LocalStore) and store.root == tmp_path / "a b"
        assert store.uri == (tmp_path / "a b").as_uri()


@pytest.mark.parametrize("uri", ["", "gs://bucket/x", "http://host/x", "file://host/x", "s3://", "s3://bucket/../x"])
def test_open_store_refuses_other_uris(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch)
    with pytest.raises(ConfigError):
        open_store(uri)


def _environment(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    values = {
        "INSTAR_S3_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "hunter22",
    }
    for key in (*values, "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {**values, **changes}.items():
        monkeypatch.setenv(key, value)


def test_open_store_s3_reads_the_environment_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch, INSTAR_S3_ENDPOINT="s3.example.org")
    store = open_store("s3://bucket/some/prefix/")
    assert isinstance(store, S3Store)
    assert (store.uri, repr(store)) == ("s3://bucket/some/prefix", "S3Store(s3://bucket/some/prefix at s3.example.org)")
    assert store._endpoint.secure  # no scheme means TLS
    assert "hunter22" not in repr(store) + repr(vars(store)) and "AKIDTEST" not in repr(vars(store))


@pytest.mark.parametrize("key", ["INSTAR_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_open_store_s3_names_the_missing_variable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch)
    monkeypatch.delenv(key)
    with pytest.raises(ConfigError, match=f"no value for {key};") as caught:
        open_store("s3://bucket")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["s3://AKID:hunter22@bucket/x", "https://u:hunter22@host/x", "s3://bucket/x?secret=hunter22"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch)
    with pytest.raises(ConfigError, match="with credentials") as caught:
        open_store(uri)
    assert "hunter22" not in caught.value.render() + str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://u:hunter22@host", "ftp://host", "http://host/path", "http://"])
def test_endpoint_is_scheme_host_and_port_only(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(monkeypatch, INSTAR_S3_ENDPOINT=endpoint)
    with pytest.raises(ConfigError, match="that has not the form http") as caught:
        open_store("s3://bucket")
    assert "hunter22" not in str(caught.value)


def test_importing_the_store_does_not_import_the_s3_client() -> None:
    script = (
        "import sys, instar.store, instar.cas; print([m for m in ('minio', 'urllib3', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
