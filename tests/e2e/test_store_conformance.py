"""The twenty checks against a real SeaweedFS, bare and behind gateways that each spoil one thing."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from instar.conformance import CHECKS, require_conditional, run
from instar.conformance.conditional import swap_right_tag
from instar.conformance.objects import read_your_write
from instar.conformance.tools import Broken
from instar.errors import StorageError
from instar.store import ObjectStore, open_store

if TYPE_CHECKING:
    from tests.seaweed import Seaweed


@dataclass
class Gateway:
    """Passes requests on, less the headers in `drops`. With `caches`, the first answer to a GET is the last one."""

    upstream: str
    port: int = 0
    drops: frozenset[str] = frozenset()
    caches: bool = False
    passed: int = 0
    cache: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: Gateway

    def log_message(self, format: str, *args: object) -> None:
        pass

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = f"{self.path} {self.headers.get('Range')}"
        cached = self.gateway.caches and self.command == "GET" and "list-type" not in self.path
        status, headers, data = self.gateway.cache.get(key) or self.ask(body)
        if cached and status < 300:
            self.gateway.cache[key] = (status, headers, data)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request on under its own Host, which is signed; the conditions are not."""
        connection = http.client.HTTPConnection(self.gateway.upstream, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k not in self.gateway.drops}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.gateway.passed += 1
        own = {"content-length", "transfer-encoding", "connection", "date", "server"}
        own -= {"content-length"} if self.command == "HEAD" else set()
        return answer.status, [(k, v) for k, v in answer.getheaders() if k.lower() not in own], data

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in seaweed.environment().items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def gateway(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    state = Gateway(seaweed.endpoint.removeprefix("http://"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"gateway": state}))
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("INSTAR_S3_ENDPOINT", f"http://127.0.0.1:{state.port}")
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def failed(store: ObjectStore) -> dict[str, str]:
    return {result.name: result.detail for result in run(store) if not result.passed}


def doctor(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "instar", "doctor", "--store", uri],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )


def test_seaweedfs_passes_again_and_again() -> None:
    uri = "s3://instar-test/conformance-pass"
    done = doctor(uri)
    assert done.returncode == 0, done.stderr
    assert f"store {uri}: 20 of 20 checks passed" in done.stdout
    assert all(name in done.stdout for name, _, _ in CHECKS) and "FAILED" not in done.stdout
    store = open_store(uri)
    names = store.list("")
    assert failed(store) == {}
    require_conditional(store)
    assert len(store.list("")) == len(names) + 3 + 1
    assert sum(store.size(name) or 0 for name in store.list("")) < 1 << 20


@pytest.mark.slow  # all other checks pass behind the gateway that drops a condition
def test_an_honest_gateway_passes(gateway: Gateway) -> None:
    assert failed(open_store("s3://instar-test/conformance-honest")) == {}
    assert gateway.passed > 300


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        pytest.param(
            "If-Match", {"swap, wrong tag", "swap, missing object", "swap, 8 writers x 10"}, marks=pytest.mark.slow
        ),
        pytest.param("If-None-Match", {"create once", "create, 16 racers"}, marks=pytest.mark.slow),
    ],
)
def test_a_gateway_that_drops_a_condition_fails_what_rests_on_it(
    gateway: Gateway, drops: str, expected: set[str]
) -> None:
    gateway.drops = frozenset({drops})
    uri = f"s3://instar-test/conformance-{drops}"
    done = doctor(uri)
    assert done.returncode == StorageError.exit_code == 18
    assert f"{20 - len(expected)} of 20 checks passed" in done.stdout
    assert done.stdout.count("FAILED: ") == len(expected)
    named = re.search(r"found: +\d failed: (.*)", done.stderr)
    assert named is not None and set(named[1].split("; ")) == expected, done.stderr
    with pytest.raises(StorageError, match=rf"succeeded \({drops}\)"):
        require_conditional(open_store(uri))


def test_a_gateway_that_caches_fails_what_reads_new_bytes(gateway: Gateway) -> None:
    gateway.caches = True
    store = open_store("s3://instar-test/conformance-cache")
    with pytest.raises(Broken, match="older bytes after write 2 of 20"):
        read_your_write(store)
    with pytest.raises(Broken, match="other bytes than were swapped in"):
        swap_right_tag(store)


def test_a_wrong_key_is_no_failed_check_but_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-the-test")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        next(run(open_store("s3://instar-test/conformance-key")))


@pytest.mark.slow  # the checks race too: 16 creators, 8 writers
def test_sixteen_racing_swaps_of_one_version_one_wins() -> None:
    store = open_store("s3://instar-test/conformance-race")
    store.put_bytes("head", b"start")
    with ThreadPoolExecutor(16) as pool:
        for round_ in range(3):
            seen, barrier = store.read_tagged("head"), threading.Barrier(16)
            assert seen is not None

            def race(i: int, tag: str = seen.tag, barrier: threading.Barrier = barrier, round_: int = round_) -> bool:
                barrier.wait()
                return store.swap("head", f"{round_}.{i}".encode(), tag)

            won = [i for i, ok in enumerate(pool.map(race, range(16))) if ok]
            assert len(won) == 1
            assert store.read("head") == f"{round_}.{won[0]}".encode()
