"""Planted faults of conditional writes: a condition ignored, an answer lost, an answer that is no defeat."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instar.conformance import require_conditional
from instar.errors import StorageError, UnavailableError
from instar.store import Tagged
from instar.store_s3 import S3Store
from support.faulty_s3 import Service, etag, open_service, serving


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as state:
        yield state


@pytest.fixture
def store(service: Service) -> S3Store:
    return open_service(service.port)


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_service_that_ignores_a_condition_is_refused(service: Service, store: S3Store, ignored: str) -> None:
    for _ in range(2):
        require_conditional(store)
    service.ignored = frozenset({ignored})
    with pytest.raises(StorageError, match=rf"succeeded \({ignored}\)"):
        require_conditional(store)


def test_create_whose_answer_was_lost_still_knows_that_it_won(service: Service, store: S3Store) -> None:
    service.faults["PUT"] = ["lost"]
    assert store.create("head", b"1") is True
    assert service.requests.count("PUT head") == 2
    service.faults["PUT"] = ["status 503"]
    assert store.create("head", b"1") is False


@pytest.mark.parametrize("misses", [1, 2])
def test_create_whose_answer_was_lost_is_not_given_up_for_one_miss(
    service: Service, store: S3Store, misses: int
) -> None:
    """`another process owns it` was the verdict on the writer's own object."""
    service.faults = {"PUT": ["lost"], "HEAD": ["status 404"] * misses}
    assert store.create("head", b"1") is True
    service.faults = {"HEAD": ["status 404"] * misses}
    assert store.create("head", b"2") is False
    assert service.objects["head"][0] == b"1"


def test_a_service_that_contradicts_itself_is_no_verdict(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.faults["HEAD"] = ["status 404 always"]
    with pytest.raises(UnavailableError, match="no object, 4 times in a row"):
        store.create("head", b"1")


def test_swap_whose_answer_was_lost_is_not_given_up_for_one_miss(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.faults = {"PUT": ["lost"], "HEAD": ["status 404"]}
    assert swapped(store) is True


def test_create_retries_a_conflict(service: Service, store: S3Store) -> None:
    service.faults["PUT"] = ["status 409", "status 409"]
    assert store.create("head", b"1") is True
    assert service.requests.count("PUT head") == 3


def swapped(store: S3Store, data: bytes = b"new") -> bool:
    """Read the object `head` and swap it."""
    seen = store.read_tagged("head")
    assert seen is not None
    return store.swap("head", data, seen.tag)


def test_swap_takes_the_tag_of_the_version_that_was_read(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    seen = store.read_tagged("head")
    assert seen is not None and (seen.data, seen.tag) == (b"old", etag(b"old"))
    assert [store.swap("head", data, seen.tag) for data in (b"new", b"newer")] == [True, False]
    assert service.objects["head"][0] == b"new"
    service.objects["head"] = (b"", "")
    assert store.read_tagged("head") == Tagged(data=b"", tag=etag(b""))
    assert swapped(store)


@pytest.mark.parametrize("answer", [(404, "NoSuchKey"), (412, "PreconditionFailed")])
def test_swap_of_a_missing_object_is_a_defeat(service: Service, store: S3Store, answer: tuple[int, str]) -> None:
    service.no_match = answer
    assert store.read_tagged("head") is None
    assert store.swap("head", b"new", etag(b"")) is False
    assert service.objects == {}


def test_swap_whose_answer_was_lost_still_knows_that_it_won(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.faults["PUT"] = ["status 503", "lost"]
    assert swapped(store) is True
    assert (service.requests.count("PUT head"), service.objects["head"][0]) == (3, b"new")
    service.faults["PUT"] = ["status 503"]
    assert store.swap("head", b"late", etag(b"old")) is False
    assert service.objects["head"][0] == b"new"


def test_swap_that_was_lost_and_overtaken_reports_that_the_object_moved_on(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.faults["PUT"] = ["overtaken"]
    assert swapped(store) is False
    assert service.objects["head"][0] == b"later"


def test_swap_asks_again_while_another_one_is_in_flight(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.faults["PUT"] = ["status 409", "status 409"]
    assert swapped(store) is True
    assert service.requests.count("PUT head") == 3
    service.faults["PUT"] = ["status 409 always"]
    with pytest.raises(UnavailableError, match="409"):
        swapped(store, b"newer")
    assert service.requests.count("PUT head") == 3 + 21


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("status 404", "NoSuchUpload"),
        ("html 404", "HTTP 404"),
        ("html 501", "HTTP 501"),
        ("empty 403", "HTTP 403"),
        ("garbled 403", "ParseError"),
    ],
)
def test_an_answer_that_is_no_defeat_is_an_error(service: Service, store: S3Store, fault: str, found: str) -> None:
    service.objects["head"] = (b"old", "")
    for call in (lambda: swapped(store), lambda: store.create("other", b"")):
        service.faults["PUT"] = [fault]
        with pytest.raises(StorageError, match=found):
            call()
    assert service.objects == {"head": (b"old", "")}


def test_a_service_without_tags_is_refused(service: Service, store: S3Store) -> None:
    service.objects["head"] = (b"old", "")
    service.tagged = False
    with pytest.raises(StorageError, match="without an ETag"):
        store.read_tagged("head")
