"""Planted network faults: a tiny S3 service on loopback fails on command; each has its error or recovery."""

from __future__ import annotations

import dataclasses
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instar.cas import Cas
from instar.conformance.objects import strangers_refused
from instar.conformance.tools import Broken
from instar.errors import ArtifactError, LedgerError, StorageError, UnavailableError
from instar.ledger import Ledger
from instar.manifest import blob_name
from instar.store_requests import S3Options, connection_pool, without_query
from instar.store_s3 import S3Store
from support.faulty_s3 import KIB, LIST, OPTIONS, Service, open_service, serving


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as state:
        yield state


@pytest.fixture
def store(service: Service) -> S3Store:
    return open_service(service.port)


CALLS: dict[str, Callable[[S3Store], object]] = {
    "GET": lambda s: s.read("old"),
    "PUT": lambda s: s.put_bytes("new", b"1"),
    "HEAD": lambda s: s.exists("old"),
}


ANY = ["status 503", "status 500", "status 429", "html 502", "stall 0.8"]
HEALING = [(method, fault) for method in CALLS for fault in ANY]
HEALING += [("GET", "status 400"), ("PUT", "status 400"), ("GET", "drop"), ("PUT", "lost")]


@pytest.mark.parametrize(("method", "fault"), HEALING)
def test_two_failures_then_success(service: Service, store: S3Store, method: str, fault: str) -> None:
    service.objects["old"] = (b"x" * 1000, "")
    service.faults[method] = [fault] * (1 if fault.startswith("stall") else 2)
    CALLS[method](store)
    assert service.faults[method] == []
    assert service.objects.get("new", (b"1", ""))[0] == b"1"


def test_connection_dropped_in_the_middle_of_ranged_reads(service: Service, store: S3Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1200  # 300 KiB: five parts
    service.objects["old"] = (data, "")
    service.faults["GET"] = ["", "drop", "drop", "stall 4", "drop"]
    patient = open_service(service.port, dataclasses.replace(OPTIONS, read_timeout_s=2, deadline_s=30))
    patient.get_file("old", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert service.requests.count("GET old") == 5 + 4
    service.faults["GET"] = ["", "", "drop always"]
    with pytest.raises(UnavailableError, match="IncompleteRead"):
        store.get_file("old", tmp_path / "second")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("fault", ["status 503 always", "stall 5 always", "trickle always"])
def test_the_deadline_names_host_operation_and_time(service: Service, store: S3Store, fault: str) -> None:
    service.objects["old"] = (b"x" * 20_000, "")
    service.faults["GET"] = [fault]
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        store.read("old")
    assert 0.5 < time.monotonic() - started < 10
    assert caught.value.transient and caught.value.exit_code == 75
    assert caught.value.where == f"GET s3://bucket/old at 127.0.0.1:{service.port}"
    assert "within 1.5 s" in caught.value.expected
    assert re.search(r"after \d+ attempts in [12]\.\d s", caught.value.found)


def test_the_error_names_every_kind_of_failure_and_not_only_the_last(service: Service, store: S3Store) -> None:
    service.objects["old"] = (b"x" * 1000, "")
    service.faults["GET"] = ["drop", "status 503", "drop", "stall 5 always"]
    with pytest.raises(UnavailableError) as caught:
        store.read("old")
    assert re.search(r"IncompleteRead.*; HTTP 503; .*Read timed out", caught.value.found)


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = open_service(unused.getsockname()[1])
        for call in CALLS.values():
            with pytest.raises(UnavailableError, match="Connection refused"):
                call(store)


def test_a_listener_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_service(silent.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="Read timed out"):
            store.create("head", b"1")
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_thirty_second_stall_is_survived_with_default_options(service: Service) -> None:
    store = open_service(service.port, S3Options())
    service.objects["old"] = (b"x", "")
    service.faults["GET"] = ["stall 30"]
    started = time.monotonic()
    assert store.read("old") == b"x"
    assert 19 < time.monotonic() - started < 29  # the first attempt is given up after 20 s


@pytest.mark.parametrize("fault", ["status 403 always", "html 403 always", "html 404 always"])
def test_permanent_errors_are_raised_at_once(service: Service, store: S3Store, fault: str) -> None:
    service.objects["old"] = (b"x", "")
    service.faults = {"GET": [fault], "PUT": [fault]}
    for call in (lambda: store.read("old"), lambda: store.put_bytes("new", b""), lambda: store.create("new", b"")):
        with pytest.raises(StorageError):
            call()
    assert (service.requests.count("GET old"), service.requests.count("PUT new")) == (1, 2)


def test_a_service_that_asks_for_no_key_fails_the_check(service: Service, store: S3Store) -> None:
    with pytest.raises(Broken, match="a wrong secret key that may write, conditional write, read"):
        strangers_refused(store)
    assert service.objects


def test_object_replaced_while_it_is_read(service: Service, store: S3Store) -> None:
    service.objects["old"] = (b"x" * 100 * KIB, "")
    service.faults["GET"] = ["", "other"]
    with pytest.raises(UnavailableError, match="parts of two versions"):
        store.read("old")


@pytest.fixture
def stored(store: S3Store, tmp_path: Path) -> tuple[Cas, str]:
    """A store on the other side of the network, seen with an empty cache, and the artifact in it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_bytes(b"weights")
    return Cas(store, tmp_path / "cache"), Cas(store, tmp_path / "writer").put(tmp_path / "in", "Policy")


@pytest.mark.parametrize("faults", [["flip 1"], ["", "flip 1"]], ids=["manifest", "file"])
def test_bytes_falsified_on_the_way_are_read_once_more(
    faults: list[str], service: Service, stored: tuple[Cas, str]
) -> None:
    cas, digest = stored
    service.faults["GET"] = faults
    assert (cas.get(digest) / "x").read_bytes() == b"weights"
    assert service.faults["GET"] == []


def test_a_way_that_falsifies_twice_is_not_the_store(service: Service, stored: tuple[Cas, str]) -> None:
    """Nothing may be deleted on its word: the objects are intact."""
    cas, digest = stored
    for faults in (["flip 1", "flip 2"], ["", "flip 1", "flip 2"]):
        service.faults["GET"] = faults
        with pytest.raises(UnavailableError) as caught:
            cas.get(digest)
        assert "delete" not in caught.value.action and caught.value.transient
    assert cas.get(digest).is_dir()


def test_an_object_that_is_damaged_is_named_after_two_equal_readings(service: Service, stored: tuple[Cas, str]) -> None:
    cas, digest = stored
    name = blob_name(cas.manifest(digest).files["x"].sha256)
    service.objects[name] = (b"Weights", "")
    with pytest.raises(ArtifactError, match=r"read twice.*delete"):
        cas.get(digest)


def test_a_ledger_entry_falsified_on_the_way_is_read_once_more(service: Service, store: S3Store) -> None:
    body = {"code": "c"}
    written = Ledger(store, "e").append("accept_code", body, {"at": 1.0})
    listing = f"<Contents><Key>evolutions/e/ledger/00000000.json</Key><Size>{len(written.dump())}</Size></Contents>"
    service.answers["LIST"] = (200, {}, LIST.replace("</Name>", f"</Name>{listing}").encode())
    service.faults["GET"] = ["flip 1"]
    assert Ledger(store, "e").entries == [written]
    service.faults["GET"] = ["flip 1", "flip 1"]
    with pytest.raises(LedgerError):
        Ledger(store, "e")


def test_empty_object_and_missing_object(service: Service, store: S3Store) -> None:
    service.objects["empty"] = (b"", "")
    assert store.read("empty") == b""
    with pytest.raises(ArtifactError, match="found nothing"):
        store.read("absent")
    assert store.size("absent") is None


def test_failed_completion_with_status_200_is_noticed(service: Service, store: S3Store) -> None:
    service.complete_answer = "<Error><Code>InternalError</Code></Error>"
    with pytest.raises(UnavailableError, match="an ETag for the completed upload"):
        store.put_bytes("big", b"x" * (6 << 20))
    assert "big" not in service.objects


def test_upload_that_the_service_forgot_is_started_again(service: Service, store: S3Store) -> None:
    service.faults["POST"] = ["", "status 404"]
    data = b"a" * (5 << 20) + b"b" * 1000
    store.put_bytes("big", data)
    assert service.objects["big"][0] == data
    assert service.requests.count("POST big") == 4


def test_failed_parts_end_the_upload_within_one_deadline(service: Service, store: S3Store) -> None:
    service.faults = {"PUT": ["status 503 always"], "DELETE": ["status 503 always"]}
    with pytest.raises(UnavailableError, match=r"HTTP 503|Read timed out"):
        store.put_bytes("big", b"x" * (24 << 20))
    assert "DELETE big" not in service.requests


def test_secrets_and_signatures_are_not_in_errors(service: Service, store: S3Store) -> None:
    service.faults["PUT"] = ["stall 5 always"]
    with pytest.raises(UnavailableError) as caught:
        store.create("head", b"1")
    text = repr(caught.getrepr(style="long"))
    assert "hunter22" not in text + repr(store) and "X-Amz-Signature" not in caught.value.render()
    assert without_query("http://h/k?X-Amz-Signature=abc failed") == "http://h/k"


def test_backoff_doubles_within_its_bounds_and_is_keyed() -> None:
    from instar.store_requests import Requests

    http = Requests(connection_pool(""), S3Options(backoff_s=0.2, backoff_max_s=10), "host", "op")
    for attempt in range(1, 12):
        base = min(10, 0.2 * 2 ** (attempt - 1))
        pauses = [http._pause(attempt, f"http://h/{i}") for i in range(50)]
        assert all(0.5 * base <= p < base for p in pauses)
        assert len(set(pauses)) == 50 and pauses[0] == http._pause(attempt, "http://h/0")
