"""A Kubeflow Pipelines API server (v2beta1) on loopback that fails on command. What it keeps is in `fake_kfp_objects`."""

from __future__ import annotations

import email
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.fake_kfp_objects import Objects, Refused

ROUTES = [
    ("POST", r"runs", "create_run"),
    ("GET", r"runs", "list_runs"),
    ("GET", r"runs/([^/:]+)", "get_run"),
    ("GET", r"v1beta1/runs/([^/:]+)", "get_workflow"),
    ("POST", r"runs/([^/:]+):terminate", "terminate_run"),
    ("GET", r"experiments", "list_experiments"),
    ("POST", r"experiments", "create_experiment"),
    ("GET", r"pipelines", "list_pipelines"),
    ("POST", r"pipelines", "create_pipeline"),
    ("GET", r"pipelines/([^/:]+)/versions", "list_versions"),
    ("POST", r"pipelines/upload_version", "upload_version"),
    ("GET", r"recurringruns", "list_schedules"),
    ("POST", r"recurringruns", "create_schedule"),
    ("DELETE", r"recurringruns/([^/:]+)", "delete_schedule"),
]


@dataclass
class FakeKfp(Objects):
    """The server. `fault` plants what happens to the next requests of one operation, first come first served:

    `drop` do the work, close without an answer · `refuse` close, no work · `late` close, and do the work at `release`
    · `hang` wait for `release`, then work and answer · `html` a login page with status 200 · `redirect` to one
    · `latin` status 502 with a page that is not UTF-8
    · `503`, `429`, ... that status, no work · `503 after` do the work, then that status.
    """

    on_request: Callable[[str], None] | None = None
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._late: list[Callable[[], object]] = []
        self._released = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> FakeKfp:
        """Listen on a free port of loopback."""
        handler = type("BoundHandler", (Handler,), {"kfp": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def reset(self) -> None:
        """Forget every object, fault and held request."""
        with self._lock:
            for kept in (
                self.runs,
                self.experiments,
                self.pipelines,
                self.versions,
                self.schedules,
                self.faults,
                self.workflows,
            ):
                kept.clear()
            self._late.clear()
            self.requests.clear()
            self.slow_cancel, self.may_upload = False, True

    def fault(self, operation: str, *kinds: str) -> None:
        """Plant faults for the next requests of `operation` (a name from `ROUTES`)."""
        assert operation in {name for _, _, name in ROUTES}
        self.faults.setdefault(operation, []).extend(kinds)

    def release(self) -> None:
        """Execute requests that were held back, in the order of their arrival."""
        with self._lock:
            waiting, self._late = self._late, []
        for work in waiting:
            work()
        self._released.set()
        self._released = threading.Event()

    def take_fault(self, operation: str) -> str:
        with self._lock:
            self.requests.append(operation)
            waiting = self.faults.get(operation)
            return waiting.pop(0) if waiting else ""

    def hold(self, work: Callable[[], object]) -> None:
        with self._lock:
            self._late.append(work)

    def wait(self) -> None:
        self._released.wait(60)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    kfp: FakeKfp

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        kfp, parts = self.kfp, urllib.parse.urlsplit(self.path)
        path = parts.path.removeprefix("/apis/").removeprefix("v2beta1/")
        query = dict(urllib.parse.parse_qsl(parts.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kfp.tokens.append(self.headers.get("Authorization", ""))
        operation, ids = _route(self.command, path)
        if kfp.on_request is not None:
            kfp.on_request(operation)
        fault = kfp.take_fault(operation)
        if fault in ("refuse", "late"):
            if fault == "late":
                kfp.hold(lambda: kfp.work(operation, ids, query, _body(self.headers, raw)))
            self.close_connection = True
            return
        if fault == "hang":
            kfp.wait()
        if fault == "html":
            self._answer(200, b"<html>please log in</html>", "text/html")
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{kfp.url}/login")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "latin":
            self._answer(502, "Passerelle défaillante".encode("latin-1"), "text/html")
            return
        status, _, after = fault.partition(" ")
        if status.isdigit() and not after:
            self._answer(int(status), b'{"message": "planted"}')
            return
        try:
            answer = kfp.work(operation, ids, query, _body(self.headers, raw))
        except Refused as error:
            key = "error_message" if operation == "upload_version" else "message"
            self._answer(error.status, json.dumps({key: error.message}).encode())
            return
        if fault == "drop":
            self.close_connection = True
            return
        self._answer(int(status) if status.isdigit() else 200, json.dumps(answer).encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = handle_one


def _route(method: str, path: str) -> tuple[str, tuple[str, ...]]:
    for verb, pattern, name in ROUTES:
        match = re.fullmatch(pattern, path)
        if verb == method and match:
            return name, match.groups()
    raise AssertionError(f"the fake server has no route for {method} {path}")


def _body(headers: Any, raw: bytes) -> Any:
    kind = headers.get("Content-Type", "")
    if kind.startswith("multipart/form-data"):
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw)
        parts: Any = message.get_payload()
        return parts[0].get_payload(decode=True)
    return json.loads(raw) if raw else {}
