"""`S3Store` and `Cas` against a real SeaweedFS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instar import store_requests
from instar.cas import Cas
from instar.errors import ArtifactError, StorageError, UnavailableError
from instar.store import open_store
from instar.store_endpoint import endpoint_from_environment
from instar.store_requests import S3Options
from instar.store_s3 import S3Store

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

MIB = 1 << 20
SHORT = S3Options(connect_timeout_s=1, read_timeout_s=2, deadline_s=2, backoff_s=0.05, part_bytes=8 * MIB)


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in seaweed.environment().items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> S3Store:
    opened = open_store(f"s3://instar-test/{request.node.name.replace('[', '-').replace(']', '')}/sub")
    assert isinstance(opened, S3Store)
    return opened


def with_options(store: S3Store, options: S3Options) -> S3Store:
    return S3Store(store.bucket, store.prefix.strip("/"), endpoint=endpoint_from_environment(), options=options)


def test_objects(store: S3Store, tmp_path: Path) -> None:
    assert (store.list(""), store.exists("a"), store.size("a")) == ([], False, None)
    store.put_bytes("a", b"1")
    store.put_bytes("a", b"two")
    store.put_bytes("dir/b=c.d_-", b"")
    assert (store.read("a"), store.size("a"), store.read("dir/b=c.d_-"), store.size("dir/b=c.d_-")) == (
        b"two",
        3,
        b"",
        0,
    )
    assert (store.list(""), store.list("d"), store.list("dir/b")) == (
        ["a", "dir/b=c.d_-"],
        ["dir/b=c.d_-"],
        ["dir/b=c.d_-"],
    )
    store.get_file("dir/b=c.d_-", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""
    for call in (lambda: store.read("no"), lambda: store.get_file("no", tmp_path / "no")):
        with pytest.raises(ArtifactError, match="object 'no'; found nothing"):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]


def test_multipart_upload_and_parallel_ranged_read(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    real = store_requests.Requests.urlopen

    def spy(self: store_requests.Requests, method: str, url: str, *args: object, **kw: object) -> object:
        headers = kw["headers"]
        assert isinstance(headers, Mapping)
        sent.append((method, headers.get("Range", "partNumber" if "partNumber" in url else "")))
        return real(self, method, url, *args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(store_requests.Requests, "urlopen", spy)
    data = os.urandom(40 * MIB + 1)
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    store.put_file("big", source)
    assert sent.count(("PUT", "partNumber")) == 3  # 16 + 16 + 8 MiB
    for part in (16 * MIB, 3 * MIB):
        sent.clear()
        reader = with_options(store, S3Options(part_bytes=part))
        reader.get_file("big", target)
        assert target.read_bytes() == data
        target.unlink()
        assert len([1 for method, span in sent if span]) == -(-len(data) // part)
    assert reader.read("big") == data
    assert store.size("big") == len(data)


def test_sixteen_racing_creators_one_wins(store: S3Store) -> None:
    for round_ in range(2):
        barrier = threading.Barrier(16)

        def race(i: int, barrier: threading.Barrier = barrier, name: str = f"head/{round_}") -> bool:
            barrier.wait()
            return store.create(name, f"{i}".encode())

        with ThreadPoolExecutor(16) as pool:
            won = [i for i, result in enumerate(pool.map(race, range(16))) if result]
        assert len(won) == 1
        assert store.read(f"head/{round_}") == f"{won[0]}".encode()


def test_artifacts(store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(os.urandom(100_000))
    (source / "sub" / "b").write_bytes(b"")
    digest = Cas(store, tmp_path / "c1").put(source, "Policy", {"k": [1, 2.5, None]})
    cas = Cas(store, tmp_path / "c2")
    folder = cas.get(digest)
    assert (folder / "a").read_bytes() == (source / "a").read_bytes() and (folder / "sub/b").read_bytes() == b""
    cas.verify(digest)
    store.put_bytes(next(n for n in store.list("blobs/") if store.size(n)), b"x" * 100_000)
    with pytest.raises(ArtifactError, match=f"a of {digest}"):
        cas.verify(digest)
    assert cas.get(digest) == folder


def test_wrong_secret_is_permanent_and_stays_unprinted(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-the-test")
    (tmp_path / "f").write_bytes(b"x" * 6 * MIB)
    wrong = open_store(store.uri)
    started = time.monotonic()
    for call in (
        lambda: wrong.read("a"),
        lambda: wrong.put_bytes("a", b""),
        lambda: wrong.exists("a"),
        lambda: wrong.list(""),
        lambda: wrong.create("a", b""),
        lambda: wrong.put_file("a", tmp_path / "f"),
    ):
        with pytest.raises(StorageError, match="SignatureDoesNotMatch") as caught:
            call()
        assert "wrong-secret" not in caught.value.render() and not caught.value.transient
    assert time.monotonic() - started < 60  # one deadline alone is 120 s
    assert not store.exists("a")


def test_missing_bucket_is_permanent_and_not_created() -> None:
    store = open_store("s3://instar-absent/x")
    for call in (
        lambda: store.read("a"),
        lambda: store.put_bytes("a", b""),
        lambda: store.exists("a"),
        lambda: store.list(""),
        lambda: store.create("a", b""),
    ):
        with pytest.raises(StorageError, match="NoSuchBucket"):
            call()


@pytest.fixture
def first_part(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the first part of a multipart upload has arrived."""
    event, real = threading.Event(), store_requests.Requests.urlopen

    def spy(self: store_requests.Requests, method: str, url: str, *args: object, **kw: object) -> object:
        response = real(self, method, url, *args, **kw)  # type: ignore[arg-type]
        if "partNumber" in url:
            event.set()
        return response

    monkeypatch.setattr(store_requests.Requests, "urlopen", spy)
    return event


@pytest.mark.slow  # test_breaks.py kills the server of an evolution, test_s3_faults.py fails the parts of an upload
def test_server_killed_during_an_upload(
    store: S3Store, seaweed: Seaweed, tmp_path: Path, first_part: threading.Event
) -> None:
    data = os.urandom(48 * MIB)
    (tmp_path / "big").write_bytes(data)
    hasty = with_options(store, SHORT)
    hasty.put_bytes("before", b"kept")
    outcome: list[BaseException] = []

    def upload() -> None:
        try:
            hasty.put_file("big", tmp_path / "big")
        except UnavailableError as error:
            outcome.append(error)

    thread = threading.Thread(target=upload)
    thread.start()
    assert first_part.wait(20)
    seaweed.kill()
    try:
        thread.join(timeout=20)
        assert not thread.is_alive()
        (error,) = outcome
        assert isinstance(error, UnavailableError) and error.transient
        assert f"PUT {store.uri}/big at 127.0.0.1" in error.where and "attempts in" in error.found
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="within 2 s"):
            hasty.read("before")
        assert time.monotonic() - started < 60
    finally:
        seaweed.start()
    assert store.read("before") == b"kept"
    assert not store.exists("big")
    store.put_file("big", tmp_path / "big")
    assert store.read("big") == data


@pytest.mark.slow  # test_s3_faults.py has the same faults without a real server
def test_upload_survives_a_restart_within_the_deadline(
    store: S3Store, seaweed: Seaweed, tmp_path: Path, first_part: threading.Event
) -> None:
    data = os.urandom(48 * MIB)
    (tmp_path / "big").write_bytes(data)
    thread = threading.Thread(target=store.put_file, args=("big", tmp_path / "big"))
    thread.start()
    assert first_part.wait(20)
    seaweed.kill()
    seaweed.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert store.read("big") == data
