"""The host side of a user's code: call a function once per row, or keep an object of a user's class.

One process serves all calls and stays. A call that ends it, or goes beyond a limit, is a `Fault` of its row only. The row is first
tried once more, as the first row of a new process: an earlier row may have left a lock that is held, or memory that is full. The
rows after it go on in the new process.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from instar import config as configs
from instar.artifact import Code
from instar.components.sandbox.code_folder import CodeFolder, prepare, remove
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.worker import LOAD_S, Ended, Serve, Worker
from instar.errors import ConfigError, ContractError
from instar.resident import Kind, Resident

CHUNK_ROWS, CHUNK_CHARS = 256, 1 << 20
"""Most rows, and about how many characters, of one request."""
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_PATIENCE_S = 5.0
"""How much later than the process itself the host ends calls of an async function."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The parameters of a user's function, or of the constructor of a user's class."""

    entry: str
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    keywords: bool
    is_async: bool
    is_class: bool


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A call that gave no value. `reason` is one line; `traceback` begins at the user's code."""

    reason: str
    traceback: str = ""


class Sandbox:
    """Runs functions and objects of one `Code` artifact. Close it, or use it as a context manager."""

    def __init__(self, code: Code, config: SandboxConfig) -> None:
        self.digest, self.config = code.digest, config
        self._folder: CodeFolder = prepare(code)
        self._workers: list[Worker] = []
        self._signatures: dict[str, Signature] = {}
        self._lock = threading.RLock()
        self._finish = weakref.finalize(self, _close, self._folder.root, self._workers, os.getpid())

    def __enter__(self) -> Sandbox:
        """Return the sandbox."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sandbox."""
        self.close()

    def close(self) -> None:
        """End the process and remove its folders. The sandbox cannot be used afterwards."""
        self._finish()

    @property
    def is_open(self) -> bool:
        """Whether the sandbox can be used by this process."""
        return self._finish.alive

    def signature(self, entry: str) -> Signature:
        """Return the signature of a function or class. Raises `ConfigError` when its file cannot be imported."""
        with self._lock:
            worker = self._ready(entry)
        if isinstance(worker, Fault):
            raise ConfigError(
                expected="a function or a class that can be imported",
                found=f"{worker.reason}\n{worker.traceback}".strip(),
                where=entry,
                action="correct the file, and bundle every file and package that it imports",
            )
        return self._signatures[entry]

    def calls(
        self,
        entry: str,
        rows: Sequence[Mapping[str, Any]],
        serve: Serve | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> list[Any | Fault]:
        """Call a function once for each row, with the row as keyword arguments. Return a value or a fault for each, in order.

        A row holds JSON values, and bytes or lists of bytes. `serve` holds functions of this process by a dotted name. For example,
        `policy.logprobs` gives the parameter `policy` an object with the method `logprobs`. `kinds` says of a parameter that it is
        more than JSON: `response` is a text with the fields of a chat message.

        Rows of an async function are called at once. The global generators start every call at a seed made from its row.
        """
        with self._lock:
            work = _Work.of(entry, rows, serve or {}, kinds or {}, self._folder.images)
            try:
                if self.signature(entry).is_async:
                    self._concurrent(work, list(range(len(rows))))
                else:
                    self._in_turn(work)
            finally:
                for image in self._folder.images.iterdir():
                    image.unlink()
            return work.results

    def create(self, entry: str, *args: Any, **keywords: Any) -> Remote:
        """Return an object of a user's class, made in the process with JSON values. It lives as long as that process."""
        with self._lock:
            worker = self._ready(entry)
            if isinstance(worker, Fault):
                self.signature(entry)
            assert isinstance(worker, Worker)
            number = self._object(worker, entry, None, entry, args, keywords)
            return Remote(self, worker, entry, number)

    def _object(
        self,
        worker: Worker,
        entry: str,
        number: int | None,
        name: str,
        args: Sequence[Any],
        keywords: Mapping[str, Any],
    ) -> Any:
        """Make an object, or call a method of one. Raises `ContractError` for a fault of the user's code."""
        line = _ENCODER.encode({"args": args, "keywords": keywords})
        request = {"do": "object", "object": number, "name": name, "seeds": [zlib.crc32(line.encode())]}
        with self._lock:
            try:
                ((_, answer),) = worker.ask(request, [line], {}, self.config.call_s)
                worker.answered += 1
            except Ended as ended:
                self._drop()
                answer = {"fault": ended.reason, "traceback": ""}
        if "value" in answer:
            return answer["value"]
        raise ContractError(
            expected="a value that JSON can hold",
            found=f"{answer['fault']}\n{answer['traceback']}".strip(),
            where=entry if number is None else f"{entry}.{name}",
            action="correct the code",
        )

    def _in_turn(self, work: _Work) -> None:
        """Call the function for one row after the other.

        Quick answers come in groups, so the end of a process may take answers with it. After an end each answer is sent before the
        next call begins. The first row without an answer is then the one that ended the process.
        """
        position, careful = 0, False
        while position < len(work.lines):
            worker = self._ready(work.entry)
            if isinstance(worker, Fault):
                work.results[position:] = [worker] * (len(work.lines) - position)
                return
            part = range(position, work.end_of_chunk(position))
            try:
                for _, answer in worker.ask(
                    work.request("calls", part), work.part(part), work.serve, self.config.call_s
                ):
                    if "spoils" in answer and "fault" in answer and worker.answered:
                        self._drop()
                        break
                    work.results[position] = _outcome(answer)
                    position, worker.answered = position + 1, worker.answered + 1
                    if "spoils" in answer:
                        self._drop()
                        break
            except Ended as ended:
                self._drop()
                if careful and not worker.answered:
                    work.results[position] = Fault(reason=ended.reason)
                    position += 1
                careful = True
            else:
                careful = False

    def _concurrent(self, work: _Work, rows: list[int]) -> None:
        """Call an async function for `rows` at once. If they end the process, halve those that have no answer and go on."""
        for start in range(0, len(rows), CHUNK_ROWS):
            part = rows[start : start + CHUNK_ROWS]
            worker = self._ready(work.entry)
            if isinstance(worker, Fault):
                for row in part:
                    work.results[row] = worker
                continue
            open_rows, first = set(part), worker.answered == 0
            limit_s = self.config.call_s + _PATIENCE_S if len(part) > 1 else self.config.call_s + 0.5
            try:
                request = work.request("concurrent", part)
                for number, answer in worker.ask(request, work.part(part), work.serve, limit_s):
                    work.results[part[int(number)]] = _outcome(answer)
                    open_rows.discard(part[int(number)])
                    worker.answered += 1
            except Ended as ended:
                self._drop()
                waiting = sorted(open_rows)
                if len(part) == 1 and first:
                    work.results[part[0]] = Fault(reason=ended.reason)
                    continue
                half = (len(waiting) + 1) // 2
                for some in (waiting[:half], waiting[half:]):
                    if some:
                        self._concurrent(work, some)

    def _ready(self, entry: str) -> Worker | Fault:
        """Return a process that has imported the file of `entry`. If that fails, return the fault."""
        if not self._finish.alive:
            raise RuntimeError("the sandbox is closed")
        if self._workers and not self._workers[0].alive:
            self._drop()
        if not self._workers:
            self._workers.append(Worker(self._folder, self.config))
        worker = self._workers[0]
        if entry in worker.loaded:
            return worker
        try:
            ((_, answer),) = worker.ask({"do": "load", "entry": entry, "cpu_s": LOAD_S}, [], {}, LOAD_S)
        except Ended as ended:
            self._drop()
            return Fault(reason=f"{ended.reason}, while {entry.partition(':')[0]} was imported")
        outcome = _outcome(answer["value"] if "fault" in answer.get("value", {}) else answer)
        if isinstance(outcome, Fault):
            self._drop()
            return outcome
        self._signatures[entry] = Signature(
            entry=entry,
            parameters=tuple(outcome["parameters"]),
            required=tuple(outcome["required"]),
            keywords=bool(outcome["keywords"]),
            is_async=bool(outcome["is_async"]),
            is_class=bool(outcome["is_class"]),
        )
        worker.loaded.add(entry)
        return worker

    def _drop(self) -> None:
        """End the process. The next call starts a new one."""
        while self._workers:
            self._workers.pop().end()


class Remote:
    """An object of a user's class that lives in the process of a sandbox."""

    def __init__(self, sandbox: Sandbox, worker: Worker, entry: str, number: int) -> None:
        self._sandbox, self._worker, self.entry, self._number = sandbox, worker, entry, number

    def call(self, method: str, *args: Any, **keywords: Any) -> Any:
        """Call a method with JSON values and return its JSON value. Raises `ContractError` when the code fails.

        A call that ends the process ends every object in it. Make them again, for example from their saved state.
        """
        if not self._worker.alive:
            raise ContractError(
                expected="the process in which the object was made",
                found="a process that has ended, at a limit or by itself",
                where=f"{self.entry}.{method}",
                action="correct the code that ended it, and make the object again",
            )
        return self._sandbox._object(self._worker, self.entry, self._number, method, args, keywords)


SANDBOX: Kind[Sandbox] = Kind("sandbox", newest=4)
"""The sandboxes that this process has open, by the digest of their code and of their limits."""


def open_sandbox(code: Code, config: SandboxConfig, resident: Resident) -> Sandbox:
    """Return the sandbox of this code and these limits that `resident` keeps, or a new one, which it then keeps."""
    key = f"{code.digest}-{configs.digest(config)}"
    sandbox = resident.get(SANDBOX, key) if code.digest else None
    if sandbox is None or not sandbox.is_open:
        sandbox = Sandbox(code, config)
        if code.digest:
            resident.put(SANDBOX, Code(code.path, key), sandbox)
    return sandbox


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The rows of one call of `Sandbox.calls` as lines, with a place for the result of each."""

    entry: str
    lines: list[str]
    seeds: list[int]
    kinds: dict[str, str]
    serve: Serve
    results: list[Any]

    @classmethod
    def of(
        cls, entry: str, rows: Sequence[Mapping[str, Any]], serve: Serve, kinds: Mapping[str, str], images: Path
    ) -> _Work:
        methods: dict[str, list[str]] = {}
        for name in serve:
            parameter, _, method = name.partition(".")
            methods.setdefault(parameter, []).append(method)
        kinds = {**kinds, **dict.fromkeys(methods, "host")}
        lines = []
        for row in rows:
            values = dict(row)
            for name in methods.keys() & row.keys():
                values[name] = {"name": name, "methods": methods[name], **row[name]}
            for name, value in row.items():
                if type(value) in _MAY_HOLD_BYTES and _holds_bytes(value):
                    values[name] = _written(value, images)
                    kinds[name] = "bytes"
            lines.append(_ENCODER.encode(values))
        seeds = [zlib.crc32(line.encode("ascii")) for line in lines]
        return cls(entry=entry, lines=lines, seeds=seeds, kinds=kinds, serve=serve, results=[None] * len(lines))

    def end_of_chunk(self, start: int) -> int:
        """Return the end of the chunk of rows that begins at `start`."""
        chars = 0
        for row in range(start, min(start + CHUNK_ROWS, len(self.lines))):
            chars += len(self.lines[row])
            if chars > CHUNK_CHARS:
                return row + 1
        return min(start + CHUNK_ROWS, len(self.lines))

    def part(self, rows: Sequence[int]) -> list[str]:
        """Return the lines of some rows."""
        return [self.lines[row] for row in rows]

    def request(self, do: str, rows: Sequence[int]) -> dict[str, Any]:
        """Return the head of a request for some rows."""
        return {"do": do, "entry": self.entry, "kinds": self.kinds, "seeds": [self.seeds[row] for row in rows]}


_MAY_HOLD_BYTES = frozenset({bytes, list, tuple})


def _holds_bytes(value: Any) -> bool:
    return isinstance(value, bytes) or (len(value) > 0 and isinstance(value[0], bytes))


def _written(value: bytes | Sequence[bytes], folder: Path) -> str | list[str]:
    """Write an image, or several, to files that are named by their content. Return their paths."""
    if not isinstance(value, bytes):
        return [str(_written(image, folder)) for image in value]
    path = folder / hashlib.sha256(value).hexdigest()
    if not path.exists():
        path.write_bytes(value)
    return str(path)


def _outcome(answer: Mapping[str, Any]) -> Any:
    if "fault" in answer:
        return Fault(reason=str(answer["fault"]), traceback=str(answer.get("traceback", "")))
    return answer["value"]


def _close(root: Path, workers: list[Worker], owner: int) -> None:
    while workers:
        workers.pop().end()
    if owner == os.getpid():
        remove(root)
