"""The process in which a user's code runs. It is a script: it reads requests from a socket and answers each.

It imports the standard library only. `confine` says what the process gives up before it imports a file of the user.

A request is a JSON object on one line, and the rows of a call follow it, one a line. Every answer is one line: the word of
the request (a nonce), what the answer is about, and a JSON value. A line with another word was written by the user's code, and the
host then ends this process. Where a request is `grouped`, answers that follow each other quickly are sent in one piece.

User code shares this interpreter, so it can replace what other code looks up by name. What answers a request is therefore bound
when the script starts, and the JSON of a line is read and written by objects that nobody else holds.
"""

from __future__ import annotations

import _json
import _thread
import errno
import importlib.util
import json
import json.decoder
import json.encoder
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

MAX_LINE, MAX_REASON, MAX_TRACEBACK = 4 << 20, 300, 4000
"""Most bytes of one answer, and most characters of the reason and of the traceback of a fault."""
GROUP_S = 0.01
"""For how long quick answers are gathered before they are sent, if the request allows it."""
CONCURRENT = 128
"""How many calls of an async function run at once."""


class TooMuchPrinted(BaseException):
    """The function printed more than it may. Not an `Exception`, so that a broad handler does not swallow it."""


class Prints:
    """Stands for stdout and stderr: counts characters, keeps none, and raises when there are too many."""

    encoding, errors, newlines, closed = "utf-8", "strict", None, False

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0

    def write(self, text: str) -> int:
        """Count the characters of `text`."""
        self.count += len(text)
        if self.count > self.limit:
            raise TooMuchPrinted(f"more than {self.limit >> 10} KiB printed")
        return len(text)

    def writelines(self, texts: Sequence[str]) -> None:
        """Count the characters of several texts."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Do nothing, because nothing is kept."""

    def isatty(self) -> bool:
        """Return that no person reads along."""
        return False

    def writable(self) -> bool:
        """Return that one may write."""
        return True

    def fileno(self) -> int:
        """Raise as a stream without a descriptor does."""
        raise OSError(errno.EBADF, "this stream has no file descriptor")


class Response(str):
    """A completion as other libraries hand it to a reward: a text that also has the fields of a chat message."""

    role = "assistant"

    @property
    def content(self) -> str:
        """The text."""
        return str(self)

    @property
    def message(self) -> Response:
        """The message of a choice, which is this text itself."""
        return self

    @property
    def tool_calls(self) -> list[Any] | None:
        """The calls in `<tool_call>` blocks, each with `function.name` and `function.arguments`, or None."""
        from types import SimpleNamespace

        calls = []
        for block in str(self).split("<tool_call>")[1:]:
            try:
                call = json.loads(block.partition("</tool_call>")[0])
                arguments = call.get("arguments", {})
                text = arguments if isinstance(arguments, str) else json.dumps(arguments)
                calls.append(SimpleNamespace(function=SimpleNamespace(name=call.get("name"), arguments=text)))
            except (ValueError, AttributeError):
                continue
        return calls or None


def _encoder(default: Callable[[Any], Any]) -> Callable[[Any], str]:
    """Return a function that writes JSON and looks up nothing that user code could replace. NaN and infinity have their names."""
    join = "".join
    text = _json.encode_basestring_ascii
    encode = _json.make_encoder(None, default, text, None, ":", ",", False, False, True)
    return lambda value: join(encode(value, 0))


def _decoder() -> Callable[[str], Any]:
    scan = _json.make_scanner(cast("Any", json.JSONDecoder()))
    return lambda text: scan(text, 0)[0]


def plain(value: Any) -> Any:
    """Return what JSON can hold of a value: numbers of numpy and torch, fractions, arrays, dataclasses. Raises `TypeError`."""
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {"__class__": type(value).__name__, **{name: getattr(value, name) for name in fields}}
    kind = type(value).__module__.partition(".")[0]
    if kind in ("numpy", "torch"):
        return value.item() if value.ndim == 0 else value.tolist()
    if kind in ("fractions", "decimal", "_decimal"):
        return float(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


class Child:
    """What the process knows: its channel, the user's functions that are loaded, and the objects of the user's classes."""

    def __init__(self, channel: socket.socket, settings: dict[str, Any]) -> None:
        self.settings, self.code, self._work = settings, Path(settings["code"]), settings["work"]
        self._receive, self._send, self._part, self._lines = channel.recv, channel.sendall, b"", deque[bytes]()
        self._encode, self._decode = _encoder(plain), _decoder()
        self._timer, self._clock = signal.setitimer, signal.ITIMER_PROF
        self._prints = Prints(settings["print_kb"] << 10)
        self._stat, self._chdir, self._threads = os.stat, os.chdir, _thread._count
        self._environ, self._modules, self._lock = os.environ, sys.modules, threading.Lock()
        self._variables = dict(self._environ._data)  # type: ignore[attr-defined]
        self._entries: dict[str, Any] = {}
        self._objects: list[Any] = []
        self._loop: Any = None
        self._word, self._unsent, self._grouped, self._now, self._due = "", bytearray(), False, time.perf_counter, 0.0
        self._cpu_s, self._inode, self._changed = settings["cpu_s"], 0, 0
        self._look()

    # -- the channel

    def read(self) -> str:
        """Return the next line. Ends the process when the host has closed the channel."""
        while not self._lines:
            part = self._receive(1 << 20)
            if not part:
                os._exit(0)
            *lines, self._part = (self._part + part).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft().decode("ascii")

    def answer(self, about: str, value: Any) -> None:
        """Write one line. A value that JSON cannot hold, or that is too long, becomes a fault."""
        try:
            text = self._encode(value)
            if len(text) > MAX_LINE:
                text = self._encode(self.fault(f"an answer of {len(text)} characters, more than {MAX_LINE}"))
        except Exception as error:
            text = self._encode(self.fault(f"a value that cannot be written as JSON ({self.named(error)})"))
        self._unsent += f"{self._word} {about} {text}\n".encode("ascii")
        if not self._grouped or self._now() > self._due:
            self.flush()

    def flush(self) -> None:
        """Send the answers that wait, in one piece."""
        self._send(self._unsent)
        self._unsent = bytearray()
        self._due = self._now() + GROUP_S

    # -- faults

    def fault(self, reason: str, trace: str = "") -> dict[str, str]:
        """Return what the host reads as a fault."""
        return {"fault": reason[:MAX_REASON], "traceback": trace[-MAX_TRACEBACK:]}

    def named(self, error: BaseException) -> str:
        """Return the class and the message of an exception, even if it cannot be printed."""
        try:
            return f"{type(error).__name__}: {error}"
        except BaseException:
            return type(error).__name__

    def raised(self, error: BaseException) -> dict[str, str]:
        """Return the fault for an exception. The traceback begins at the user's code and names files relative to it."""
        try:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
                trace = trace.tb_next
            text = "".join(traceback.format_exception(type(error), error, trace)).replace(f"{self.code}/", "")
        except BaseException:
            text = ""
        fault = self.fault(self.named(error), text)
        return {**fault, "spoils": "1"} if isinstance(error, MemoryError) else fault

    # -- the user's code

    def load(self, entry: str) -> Any:
        """Return the object that `file:name` names. The file is imported once."""
        if entry not in self._entries:
            file, _, name = entry.partition(":")
            value: Any = self._module(self.code / file)
            for part in name.split("."):
                value = getattr(value, part)
            self._entries[entry] = value
        return self._entries[entry]

    def _module(self, path: Path) -> ModuleType:
        # The folder from which the file imports is the first one that is no package, as in `instar.bundle`.
        root = path.parent
        while (root / "__init__.py").is_file() and root != self.code:
            root = root.parent
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file in the bundle", str(path.relative_to(self.code)))
        if str(root) not in sys.path:
            sys.path.insert(1, str(root))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    def signature(self, entry: str) -> dict[str, Any]:
        """Return the parameters of a function, or of a class's constructor, and what sort of thing it is."""
        import inspect

        value = self.load(entry)
        if not callable(value):
            raise TypeError(f"{entry} is a {type(value).__name__}, which cannot be called")
        called = value if inspect.isroutine(value) or inspect.isclass(value) else type(value).__call__
        parameters = list(inspect.signature(value).parameters.values())
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return {
            "parameters": [p.name for p in named],
            "required": [p.name for p in named if p.default is p.empty],
            "positional": [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY],
            "keywords": any(p.kind is p.VAR_KEYWORD for p in parameters),
            "is_async": inspect.iscoroutinefunction(called),
            "is_class": inspect.isclass(value),
        }

    def arguments(self, line: str, kinds: dict[str, str]) -> dict[str, Any]:
        """Return the keyword arguments of a row. `kinds` says which of them are more than JSON."""
        row: dict[str, Any] = self._decode(line)
        for name, kind in kinds.items():
            if name in row:
                row[name] = self._special(kind, row[name])
        return row

    def _special(self, kind: str, value: Any) -> Any:
        if kind == "bytes":
            return Path(value).read_bytes() if isinstance(value, str) else [Path(path).read_bytes() for path in value]
        if kind == "response":
            return Response(value)
        return Host(self, value)

    def host(self, name: str, args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """Call a function of the host and return its value. The time that it takes does not count."""
        with self._lock:
            self._timer(self._clock, 0.0)
            self.answer("call", {"name": name, "args": args, "keywords": keywords})
            if self._unsent:
                self.flush()
            reply = self._decode(self.read())
            self._timer(self._clock, self._cpu_s)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["value"]

    # -- requests

    def serve(self) -> None:
        """Answer requests until the host closes the channel."""
        while True:
            request = self._decode(self.read())
            self._word, self._grouped = request["word"], request.get("grouped", False)
            lines = [self.read() for _ in range(request["rows"])]
            getattr(self, f"do_{request['do']}")(request, lines)
            self._timer(self._clock, 0.0)
            if self._unsent:
                self.flush()

    def do_load(self, request: dict[str, Any], lines: list[str]) -> None:
        """Import the file of an entry and answer with its signature."""
        self._timer(self._clock, request["cpu_s"])
        try:
            value = self.signature(request["entry"])
        except BaseException as error:
            value = self.raised(error)
        self._prints.count = 0
        self._look()
        self.answer("signature", {"value": value})

    def do_calls(self, request: dict[str, Any], lines: list[str]) -> None:
        """Call a function once for each row, one after the other."""
        function, kinds, before = self.load(request["entry"]), request["kinds"], self._threads()
        generators = self._generators()
        for number, (line, seed) in enumerate(zip(lines, request["seeds"], strict=True)):
            imported = generators
            value = self._one(function, line, kinds, seed)
            generators = self._generators()
            if generators != imported:  # the call has imported a generator, which had another seed
                value = self._one(function, line, kinds, seed)
            self.answer(str(number), self._clean(value, before))

    def do_object(self, request: dict[str, Any], lines: list[str]) -> None:
        """Make an object of the user's class, or call a method of one."""
        number, name, before = request["object"], request["name"], self._threads()

        def call(args: list[Any], keywords: dict[str, Any]) -> Any:
            target = self.load(name) if number is None else getattr(self._objects[number], name)
            return target(*args, **keywords)

        value = self._one(call, lines[0], {}, request["seeds"][0])
        if number is None and "value" in value:
            self._objects.append(value["value"])
            value = {"value": len(self._objects) - 1}
        self.answer("0", self._clean(value, before))

    def _one(self, function: Callable[..., Any], line: str, kinds: dict[str, str], seed: int) -> dict[str, Any]:
        """Return the value of one call, or its fault. A call that takes too much processor time ends this process."""
        prints = self._prints
        prints.count, sys.stdout, sys.stderr = 0, prints, prints
        self._timer(self._clock, self._cpu_s)  # until the next call begins, or the request ends
        try:
            self._seed(seed)
            value: dict[str, Any] = {"value": function(**self.arguments(line, kinds))}
        except BaseException as error:
            value = self.raised(error)
        if prints.count > prints.limit:
            return self.fault(f"more than {prints.limit >> 10} KiB printed")
        return value

    def _seed(self, seed: int) -> None:
        """Start the global generators of the call at its seed, where a module of the user has imported them."""
        modules = self._modules
        if "random" in modules:
            modules["random"].seed(seed)
        if "numpy" in modules:
            modules["numpy"].random.seed(seed)
        if "torch" in modules:
            modules["torch"].default_generator.manual_seed(seed)

    def _generators(self) -> tuple[bool, ...]:
        """Return which modules with a global generator are imported."""
        modules = self._modules
        return "random" in modules, "numpy" in modules, "torch" in modules

    def _look(self) -> None:
        """Note what the empty folder looks like."""
        here = self._stat(".")
        self._inode, self._changed = here.st_ino, here.st_mtime_ns

    def _clean(self, value: dict[str, Any], threads: int) -> dict[str, Any]:
        """Empty the folder and restore the environment. Say whether the call left a thread, which only a new process ends."""
        here = self._stat(".")
        if here.st_ino != self._inode or here.st_mtime_ns != self._changed:
            self._chdir(self._work)
            empty(self._work)
            self._look()
        if self._environ._data != self._variables:  # type: ignore[attr-defined]
            self._environ.clear()
            self._environ.update({os.fsdecode(name): os.fsdecode(text) for name, text in self._variables.items()})
        return {**value, "spoils": "1"} if self._threads() > threads else value

    def do_concurrent(self, request: dict[str, Any], lines: list[str]) -> None:
        """Call an async function for all rows at once, and answer each as it ends."""
        import asyncio

        function, kinds, seconds = self.load(request["entry"]), request["kinds"], self.settings["call_s"]
        turn = asyncio.Semaphore(CONCURRENT)
        prints = self._prints
        prints.count, sys.stdout, sys.stderr = 0, prints, prints

        async def row(number: int, line: str, seed: int) -> None:
            async with turn:
                self._seed(seed)
                limit = asyncio.timeout(seconds)
                try:
                    async with limit:
                        value: dict[str, Any] = {"value": await function(**self.arguments(line, kinds))}
                except BaseException as error:
                    value = self.fault(f"no end within {seconds:g} s") if limit.expired() else self.raised(error)
            self.answer(str(number), value)
            prints.count = 0
            self._timer(self._clock, self._cpu_s)

        async def all_rows() -> None:
            rows = enumerate(zip(lines, request["seeds"], strict=True))
            await asyncio.gather(*(row(number, line, seed) for number, (line, seed) in rows))

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._timer(self._clock, self._cpu_s)
        self._loop.run_until_complete(all_rows())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._clean({}, self._threads())


class Host:
    """What a function gets for a parameter such as `policy`: its methods are functions of the host."""

    def __init__(self, child: Child, fields: dict[str, Any]) -> None:
        self._child, self._fields = child, fields
        self.digest = fields.get("digest", "")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function that calls the host's function of this name."""
        if name.startswith("_") or name not in self._fields.get("methods", ()):
            raise AttributeError(f"{name}; there is {', '.join(self._fields.get('methods', ()))}")
        extra = self._fields.get("extra", {})
        return lambda *args, **keywords: self._child.host(f"{self._fields['name']}.{name}", args, {**extra, **keywords})


def empty(folder: str) -> None:
    """Remove everything in a folder, whatever its permissions."""
    import shutil

    for item in os.scandir(folder):
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            Path(item.path).unlink()


def confine(settings: dict[str, Any], parent: int) -> dict[str, Any]:
    """Give up what the process does not need. Return which rules for files and calls hold."""
    spec = importlib.util.spec_from_file_location("_confine", Path(__file__).with_name("confine.py"))
    assert spec is not None and spec.loader is not None
    rules = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rules)
    allow = settings["allow"]
    rules.die_first()
    if "processes" in allow:
        keep(rules, parent)
    else:
        rules.die_with(parent)
    readable = [*rules.interpreter_folders(), *rules.SYSTEM, *settings["readable"]]
    sys.path[:0] = [settings["code"], *settings["sites"]]
    if settings["unprotected"]:
        rules.limit(settings["memory_mb"], settings["file_mb"])
        return {"landlock": 0, "seccomp": False}
    rules.prctl(rules.SET_NO_NEW_PRIVS, 1)
    version = rules.restrict_files(readable, [settings["work"]], "network" in allow)
    rules.limit(settings["memory_mb"], settings["file_mb"])
    rules.filter_calls(allow)
    return {"landlock": version, "seccomp": True}


def keep(rules: ModuleType, parent: int) -> None:
    """Fork, and let the first process keep the second: when the host or the second ends, the whole group ends.

    The user's code runs in the second process, and can start others. Only the first one is told when the host ends. It runs no
    code of the user.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(0, signal.SIGKILL))
    rules.die_with(parent, signal.SIGTERM)
    keeper, worker = os.getpid(), os.fork()
    if worker == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        rules.die_with(keeper)
        return
    while True:
        ended, status = os.waitpid(worker, 0)
        if ended == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def main() -> None:
    """Read the settings, give up what is not needed, and serve."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    parent = int(sys.argv[2])
    sys.dont_write_bytecode = True
    first = bytearray()
    while not first.endswith(b"\n"):
        part = channel.recv(1)
        if not part:
            return
        first += part
    settings = json.loads(first)
    try:
        state = confine(settings, parent)
    except OSError as error:
        state = {"error": str(error)}
    child = Child(channel, settings)
    channel.sendall(json.dumps(state).encode() + b"\n")
    if "error" not in state:
        child.serve()


if __name__ == "__main__":
    main()
