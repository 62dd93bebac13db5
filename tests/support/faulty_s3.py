"""A tiny S3 service on loopback that fails on command, and the store that asks it with short time limits."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from instar.store_endpoint import Endpoint
from instar.store_requests import S3Options
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
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    """Method -> what every request of it is answered, whatever it asks. `LIST` is the method of listing."""
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

    def raw(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = True
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
        planted = service.answers.get(self.command if key else "LIST")
        if planted is not None:
            return self.raw(*planted)
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
        if fault.startswith("flip"):  # falsified on the way: the object is intact
            part, fault = bytes([part[0] ^ int(fault.split()[1])]) + part[1:], ""
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


@contextmanager
def serving() -> Iterator[Service]:
    """Serve until the end of the block; the value is what the service knows and what it is to do."""
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
