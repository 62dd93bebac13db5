"""The part of a Kubernetes API server that launchers use, on loopback, failing on command. It keeps objects and their events."""

from __future__ import annotations

import copy
import http.server
import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_PATH = re.compile(r"/apis/[^/]+/[^/]+/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?")


@dataclass
class FakeKube:
    """The server. `fault` plants what happens to the next requests of one operation, first come first served:

    `drop` do the work, close without an answer · `refuse` close, no work · `503`, `403`, ... that status, no work ·
    `html` a login page · for a watch also `gone` (an event with status 410) and `cut` (hang up in the middle of an event).
    `on_request` is called with every operation before it is worked on; `on_create` with every new object.
    """

    on_request: Callable[[str], None] = lambda operation: None
    on_create: Callable[[Object], None] = lambda job: None
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    pods: list[Object] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    bodies: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.events: list[tuple[int, str, Object]] = []
        self.version = 100
        self.changed = threading.Condition(threading.RLock())
        self.stopped = False
        self._server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> FakeKube:
        """Listen on a free port of loopback."""
        handler = type("BoundHandler", (Handler,), {"kube": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def stop(self) -> None:
        """Stop listening, and end all watches."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server."""
        named: Object = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        named["clusters"] = [{"name": "fake", "cluster": {"server": self.url}}]
        named["users"] = [{"name": "fake", "user": {"token": "fake-token"}}]
        named["contexts"] = [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}]
        path.write_text(json.dumps(named))
        return path

    def fault(self, operation: str, *kinds: str) -> None:
        """Plant faults for the next requests of an operation: create, get, list, watch, patch, delete, pods."""
        self.faults.setdefault(operation, []).extend(kinds)

    def put(self, plural: str, job: Object, event: str = "MODIFIED") -> Object:
        """Keep an object in a new version and tell the watchers."""
        with self.changed:
            self.version += 1
            kept = copy.deepcopy(job)
            kept["metadata"]["resourceVersion"] = str(self.version)
            self.objects[plural, kept["metadata"]["name"]] = kept
            self._tell(event, kept)
            return kept

    def remove(self, plural: str, name: str) -> Object | None:
        """Delete an object as somebody else would."""
        with self.changed:
            kept = self.objects.pop((plural, name), None)
            if kept is not None:
                self.version += 1
                self._tell("DELETED", kept)
            return kept

    def finish(self, plural: str, name: str, condition: str, reason: str = "", message: str = "") -> None:
        """Give an object a true condition."""
        with self.changed:
            job = copy.deepcopy(self.objects[plural, name])
            found = {"type": condition, "status": "True", "reason": reason, "message": message}
            job.setdefault("status", {}).setdefault("conditions", []).append(found)
            self.put(plural, job)

    def only(self, plural: str = "jobsets") -> Object:
        """Return the one object of a kind."""
        (found,) = (job for (kind, _), job in self.objects.items() if kind == plural)
        return found

    def _tell(self, event: str, job: Object) -> None:
        self.events.append((self.version, event, copy.deepcopy(job)))
        self.changed.notify_all()


class Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    kube: FakeKube

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        kube, parts = self.kube, urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match = _PATH.fullmatch(parts.path)
        plural, name = (match[2], match[3] or "") if match else ("pods", "")
        operation = self._operation(plural, name, query)
        with kube.changed:
            kube.requests.append(operation)
            kube.bodies.append((operation, json.loads(raw) if raw else None))
            planted = kube.faults.get(operation) or [""]
            fault = planted.pop(0)
        kube.on_request(operation)
        if fault.isdigit():
            return self._answer(int(fault), {"kind": "Status", "message": "planted"})
        if fault == "html":
            return self._answer(200, "<html>please log in</html>")
        if fault == "refuse":
            self.close_connection = True
            return None
        if operation == "watch":
            return self._watch(plural, query, fault)
        try:
            status, answer = getattr(self, f"_{operation}")(plural, name, query, json.loads(raw) if raw else {})
        except Refused as error:
            return self._answer(error.status, {"kind": "Status", "reason": error.reason})
        if fault == "drop":
            self.close_connection = True
            return None
        return self._answer(status, answer)

    def _operation(self, plural: str, name: str, query: dict[str, str]) -> str:
        if plural == "pods":
            return "pods"
        if self.command == "GET":
            return "get" if name else "watch" if query.get("watch") in ("true", "True") else "list"
        return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[self.command]

    def _create(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        del name, query
        kube = self.kube
        with kube.changed:
            if (plural, body["metadata"]["name"]) in kube.objects:
                raise Refused(409, "AlreadyExists")
            body["metadata"]["uid"] = str(uuid.uuid4())
            made = kube.put(plural, body, "ADDED")
        kube.on_create(copy.deepcopy(made))
        return 201, made

    def _get(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        del query, body
        if (plural, name) not in self.kube.objects:
            raise Refused(404, "NotFound")
        return 200, self.kube.objects[plural, name]

    def _list(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        del name, body
        with self.kube.changed:
            items = [j for (kind, n), j in self.kube.objects.items() if kind == plural and _selected(n, query)]
            return 200, {"items": items, "metadata": {"resourceVersion": str(self.kube.version)}}

    def _pods(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        del plural, name, body
        key, _, value = query["labelSelector"].partition("=")
        return 200, {"items": [p for p in self.kube.pods if p["metadata"]["labels"].get(key) == value]}

    def _patch(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        with self.kube.changed:
            _, job = self._get(plural, name, query, {})
            wanted = body.get("metadata", {}).get("resourceVersion", job["metadata"]["resourceVersion"])
            if wanted != job["metadata"]["resourceVersion"]:
                raise Refused(409, "Conflict")
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            return 200, self.kube.put(plural, _merged(job, body))

    def _delete(self, plural: str, name: str, query: dict[str, str], body: Object) -> tuple[int, Object]:
        with self.kube.changed:
            _, job = self._get(plural, name, query, {})
            if body["preconditions"]["uid"] != job["metadata"]["uid"]:
                raise Refused(409, "Conflict")
            self.kube.remove(plural, name)
        return 200, {"kind": "Status", "status": "Success"}

    def _watch(self, plural: str, query: dict[str, str], fault: str) -> None:
        """Send events newer than the version as chunks, until something is newer than the window or the server stops."""
        kube = self.kube
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault == "gone":
            self._chunk({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
        elif fault == "cut":
            self.wfile.write(b'40\r\n{"type": "MODIF')
            self.close_connection = True
            return
        else:
            seen = int(query["resourceVersion"])
            with kube.changed:
                while not kube.stopped:
                    for version, event, job in [e for e in kube.events if e[0] > seen]:
                        seen = version
                        if (job["kind"], plural) == ("JobSet", "jobsets") and _selected(job["metadata"]["name"], query):
                            self._chunk({"type": event, "object": job})
                    if not kube.changed.wait(float(query["timeoutSeconds"])):
                        break
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _answer(self, status: int, body: Object | str) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_one


def _selected(name: str, query: dict[str, str]) -> bool:
    selector = query.get("fieldSelector", "")
    return not selector or selector == f"metadata.name={name}"


def _merged(value: Any, patch: Any) -> Any:
    """Return the JSON merge patch (RFC 7386) of a value."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            out.pop(key, None)
        else:
            out[key] = _merged(out.get(key), change)
    return out
