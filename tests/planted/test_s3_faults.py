"""Planted network faults: a tiny S3 service on loopback fails on command; each has its error or recovery."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from instar.conformance import require_conditional
from instar.conformance.objects import strangers_refused
from instar.conformance.tools import Broken
from instar.errors import ArtifactError, StorageError, UnavailableError
from instar.store import Tagged
from instar.store_endpoint import Endpoint
from instar.store_requests import S3Options, connection_pool, without_query
from instar.store_s3 import S3Store

KIB = 1 << 10
OPTIONS = S3Options(
    connect_timeout_s=0.5, read_timeout_s=0.5, deadline_s=1.5, backoff_s=0.02, backoff_max_s=0.1, part_bytes=64 * KIB
)
LIST = "<ListBucketResult><IsTruncated>false</IsTruncated><Name>bucket</Name></ListBucketResult>"


@dataclass
class Service:
    """Objects in memory. `faults` maps a method to what happens to its next requests, first come first served."""

    port: int = 0
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ignored: frozenset[str] = frozenset()  # headers that this service does not know
    no_match: tuple[int, str] = (404, "NoSuchKey")  # its answer to If-Match when there is no object
    tagged: bool = True
    complete_answer: str = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
    parts: dict[int, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str) -> str:
        with self.lock:
            waiting = self.faults.get(method, [])
            return (waiting[0] if waiting[0].endswith("always") else waiting.pop(0)) if waiting else ""


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", kind: str = "application/xml", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode())

    def handle_one(self) -> None:
        service, parts = self.service, urllib.parse.urlsplit(self.path)
        key, query = (
            parts.path.removeprefix("/bucket").lstrip("/"),
            urllib.parse.parse_qs(parts.query, keep_blank_values=True),
        )
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service.requests.append(f"{self.command} {key}")
        if not key:
            return self.answer(200, LIST.encode())
        fault = service.fault(self.command)
        if fault.split()[0:1] == ["status"]:
            code = {"400": "RequestTimeout", "403": "AccessDenied", "404": "NoSuchUpload"}.get(
                fault.split()[1], "InternalError"
            )
            return self.error(int(fault.split()[1]), code)
        if fault.startswith("html"):
            return self.answer(int(fault.split()[1]), b"<html>proxy</html>", "text/html")
        if fault.startswith("empty"):
            return self.answer(int(fault.split()[1]))
        if fault.startswith("garbled"):
            return self.answer(int(fault.split()[1]), b"<Error><Code>")
        if fault.startswith("stall"):
            time.sleep(float(fault.split()[1]))
        if self.command == "PUT":
            return self.put(key, query, body, fault)
        if self.command == "POST":
            return self.post(key, query)
        if self.command == "DELETE":
            return self.answer(204)
        return self.get(key, fault)

    def put(self, key: str, query: dict[str, list[str]], body: bytes, fault: str) -> None:
        service = self.service
        with service.lock:
            if "partNumber" in query:
                service.parts[int(query["partNumber"][0])] = body
            elif refusal := self.refusal(key):
                return self.error(*refusal)
            else:
                service.objects[key] = (body, self.headers.get("Content-Type", ""))
        if fault == "overtaken":
            service.objects[key] = (b"later", "application/octet-stream; creator=another")
        if fault.startswith(("lost", "overtaken")):  # stored, but the answer never leaves
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        return self.answer(200, ETag=etag(body))

    def refusal(self, key: str) -> tuple[int, str] | None:
        """Return the answer to a conditional PUT whose condition fails."""
        found, headers = self.service.objects.get(key), self.headers
        if "If-None-Match" not in self.service.ignored and headers.get("If-None-Match") == "*" and found:
            return 412, "PreconditionFailed"
        if "If-Match" in self.service.ignored or "If-Match" not in headers:
            return None
        if found is None:
            return self.service.no_match
        return None if headers["If-Match"] == etag(found[0]) else (412, "PreconditionFailed")

    def post(self, key: str, query: dict[str, list[str]]) -> None:
        service = self.service
        if "uploads" in query:
            return self.answer(
                200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            )
        if "<Error>" not in service.complete_answer:
            service.objects[key] = (b"".join(data for _, data in sorted(service.parts.items())), "")
        return self.answer(200, service.complete_answer.encode())

    def get(self, key: str, fault: str) -> None:
        if key not in self.service.objects:
            return self.error(404, "NoSuchKey")
        data, kind = self.service.objects[key]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.command == "HEAD" or span is None:
            return self.answer(200, data, kind, **({"ETag": etag(data)} if self.service.tagged else {}))
        first, last = int(span[1]), min(int(span[2]), len(data) - 1)
        if first > last:
            return self.error(416, "InvalidRange")
        part = data[first : last + 1]
        if fault.startswith("other"):
            return self.answer(206, part, kind, ETag='"f"', Content_Range=f"bytes {first}-{last}/{len(data)}")
        if not fault or fault.startswith("stall"):
            return self.answer(206, part, kind, ETag=etag(data), Content_Range=f"bytes {first}-{last}/{len(data)}")
        self.send_response(206)
        for name, value in {
            "Content-Length": f"{len(part)}",
            "Content-Range": f"bytes {first}-{last}/{len(data)}",
            "ETag": etag(data),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        if fault.startswith("drop"):
            self.wfile.write(part[: len(part) // 2])
            return None
        for offset in range(0, len(part), 100):  # "trickle": never silent for long, never done
            self.wfile.write(part[offset : offset + 100])
            time.sleep(0.05)
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is what these tests are about."""


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()
    handler = type("Bound", (Handler,), {"service": state})
    server = Quiet(("127.0.0.1", 0), handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def open_service(port: int, options: S3Options = OPTIONS) -> S3Store:
    endpoint = Endpoint(
        host=f"127.0.0.1:{port}", secure=False, region="us-east-1", access_key="AKIDTEST", secret_key="hunter22"
    )
    return S3Store("bucket", "", endpoint=endpoint, options=options)


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
    service.faults["GET"] = ["", "drop", "drop", "stall 0.6", "drop"]
    store.get_file("old", tmp_path / "out")
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
    assert 0.5 < time.monotonic() - started < 3
    assert caught.value.transient and caught.value.exit_code == 75
    assert caught.value.where == f"GET s3://bucket/old at 127.0.0.1:{service.port}"
    assert "within 1.5 s" in caught.value.expected
    assert re.search(r"after \d+ attempts in [12]\.\d s", caught.value.found)


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
        assert time.monotonic() - started < 3


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
    started = time.monotonic()
    for call in (lambda: store.read("old"), lambda: store.put_bytes("new", b""), lambda: store.create("new", b"")):
        with pytest.raises(StorageError):
            call()
    assert time.monotonic() - started < 0.5
    assert (service.requests.count("GET old"), service.requests.count("PUT new")) == (1, 2)


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_service_that_ignores_a_condition_is_refused(service: Service, store: S3Store, ignored: str) -> None:
    for _ in range(2):
        require_conditional(store)
    service.ignored = frozenset({ignored})
    with pytest.raises(StorageError, match=rf"succeeded \({ignored}\)"):
        require_conditional(store)


def test_a_service_that_asks_for_no_key_fails_the_check(service: Service, store: S3Store) -> None:
    with pytest.raises(Broken, match="a wrong secret key that may write, conditional write, read"):
        strangers_refused(store)
    assert service.objects


def test_create_whose_answer_was_lost_still_knows_that_it_won(service: Service, store: S3Store) -> None:
    service.faults["PUT"] = ["lost"]
    assert store.create("head", b"1") is True
    assert service.requests.count("PUT head") == 2
    service.faults["PUT"] = ["status 503"]
    assert store.create("head", b"1") is False


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


def test_object_replaced_while_it_is_read(service: Service, store: S3Store) -> None:
    service.objects["old"] = (b"x" * 100 * KIB, "")
    service.faults["GET"] = ["", "other"]
    with pytest.raises(UnavailableError, match="parts of two versions"):
        store.read("old")


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
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"HTTP 503|Read timed out"):
        store.put_bytes("big", b"x" * (24 << 20))
    assert time.monotonic() - started < 2.5


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
