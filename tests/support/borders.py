"""Bad input from outside, and what the command line makes of it: the inputs of the border tests, and a count of raw ends.

`python -m support.borders` (in `tests/`) prints the counts. An end is raw when its exit code is not documented, when an
exception came through, or when instar calls it an internal error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import __main__ as entry
from instar import config as configs
from instar import errors
from instar.errors import InstarError
from instar.pipelines.recipes import build
from instar.store_requests import S3Options

CODES = {0, 1, 2, 3} | {
    kind.exit_code
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, InstarError)
    and kind.__name__ not in ("InstarError", "InternalError")
}
FIELDS = ["  expected", "  found", "  where", "  do"]


@dataclass(frozen=True, kw_only=True)
class Called:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str
    crash: str = ""

    @property
    def raw(self) -> str:
        """Return why this end is no named one, or nothing."""
        if self.crash:
            return self.crash
        if "Traceback (most recent call last)" in self.err:
            return "a traceback"
        if self.code not in CODES:
            return f"exit code {self.code}: {self.err[-300:]}"
        labels = [line.split(":")[0] for line in self.err.splitlines() if line[:3] != "   "][-4:]
        return "" if self.code < 10 or labels == FIELDS else f"no four fields: {self.err[-300:]}"


def called(*argv: str) -> Called:
    """Run `instar ARGV` in this process."""
    out, err, before = Captured(), Captured(), sys.argv
    sys.argv = ["instar", *argv]
    crash, code = "", 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            entry.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        crash = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        sys.argv = before
    return Called(code=code, out=out.text(), err=err.text(), crash=crash)


class Captured(io.TextIOWrapper):
    """A standard stream in memory, with an encoding as a terminal has one."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, write_through=True)

    def text(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(errors="replace")


# --- settings

VALUES = (
    "best",
    "[1]",
    "{}",
    "{a=1}",
    "[]",
    "[[1]]",
    "true",
    "none",
    "1",
    "-1",
    "0",
    "1.5",
    "1e308",
    "1e999",
    "nan",
    "inf",
    "''",
    "-0.0",
    "9" * 30,
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 6000,
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "[1, 'a', {b=2}]",
    "[{a=1},{a=2}]",
    '{strategy="sec"}',
    "{strategy=[1]}",
    "{strategy={}}",
    "{strategy=1979-05-27}",
    "{strategy=1}",
    "a\nb",
    "1\nx=2",
    "1\n[t]\nx=1",
    "[1,\n2]",
    "1 # c",
    '"\\u0000"',
    "\x00",
    "\udcff",
    "é",
    '"""',
    "a" * 10_000,
    "[" * 5000 + "]" * 5000,
    "{a=" * 3000 + "1" + "}" * 3000,
    "{a" + ".a" * 5000 + "=1}",
    "\x1b[31m",
    "=",
    "a=b",
    " ",
)
PATHS = (
    "",
    ".",
    "a..b",
    "gate.",
    ".gate",
    "gate.strategy",
    "curriculum.strategy",
    "x" + ".x" * 20_000,
    '"a"',
    "é",
    "a\nb",
    "update\x00",
    "gate.strategy.strategy",
    "name.a",
)


def settings(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield recipes and `--set` texts: every key of a recipe may meet every value."""
    names = ("sec", "spark", "decision_mamba")
    keys = {name: [*_keys(configs.to_dict(build(name, "tiny"))), *PATHS] for name in names}
    chance = random.Random(seed)
    for _ in range(count):
        name = chance.choice(names)
        yield name, f"{chance.choice(keys[name])}={chance.choice(VALUES)}"


def _keys(value: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else key
        yield name
        if isinstance(inner, dict):
            yield from _keys(inner, name)


# --- ledgers

FORGED: tuple[Any, ...] = (None, 7, -1, "text", [], {}, [1], True, 1e300, "\x1b[2J", "../../x", {"a": {"b": [None]}})


def forge(folder: Path, seed: int) -> str:
    """Change one field of one entry of the ledger below `folder`, with every digest right again; return what was done."""
    chance = random.Random(seed)
    paths = sorted((folder / "store" / "evolutions").glob("*/ledger/*.json"))
    entries = [json.loads(path.read_text()) for path in paths]
    chosen = chance.choice(entries)
    where = chance.choice(["body", "body", "body", "body", "time", "kind", "seq"])
    if where in ("kind", "seq"):
        holder, key = chosen, where
    else:
        holder = chosen[where]
        key = chance.choice(sorted(holder) or ["at"])
        while isinstance(holder.get(key), dict) and holder[key] and chance.random() < 0.6:
            holder = holder[key]
            key = chance.choice(sorted(holder))
    done = f"{chosen['seq']} {chosen['kind']}: {where} {key}"
    if chance.random() < 0.4 and where in ("body", "time"):
        del holder[key]
        done += " removed"
    else:
        holder[key] = chance.choice(FORGED)
        done += f" = {holder[key]!r}"
    rechain(paths, entries)
    return done


def rechain(paths: list[Path], entries: list[dict[str, Any]]) -> None:
    """Write entries with digests that fit what they say."""
    from instar.ledger import GENESIS, Entry

    prev = GENESIS
    for path, raw in zip(paths, entries, strict=True):
        fields: dict[str, Any] = {name: raw.get(name) for name in ("seq", "kind", "body", "time")}
        made = Entry(**fields, prev=prev)
        path.unlink()
        path.write_bytes(made.dump())
        prev = made.digest


def ledger_commands(forged: Path, whole: Path) -> Iterator[tuple[str, ...]]:
    """Yield what a person does with a directory."""
    yield "show", str(forged)
    yield "show", str(forged), "--json"
    yield "diff", str(forged), str(whole)
    yield "report", str(forged)
    yield "resume", str(forged), "--accept-code", "--tracking", "off"
    yield "evaluate", str(forged), "--against", str(whole)
    yield "promote", str(forged)


# --- answers of an object store

ERROR = "<Error><Code>{}</Code><Message>planted</Message></Error>"
LISTED = "<ListBucketResult><IsTruncated>{}</IsTruncated><Name>bucket</Name>{}</ListBucketResult>"
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "nothing": (200, {}, b""),
    "text": (200, {"ETag": '"e"'}, b"hello"),
    "html": (200, {"Content-Type": "text/html"}, b"<html>proxy</html>"),
    "xml of something else": (200, {"Content-Type": "application/xml"}, b"<a><b/></a>"),
    "half of xml": (200, {"Content-Type": "application/xml"}, b"<ListBucketResult><Contents>"),
    "deep xml": (200, {"Content-Type": "application/xml"}, b"<a>" * 3000 + b"</a>" * 3000),
    "xml of no encoding": (200, {"Content-Type": "application/xml"}, b'<?xml version="1.0" encoding="nope"?><a/>'),
    "binary": (200, {"ETag": '"e"'}, bytes(range(256))),
    "list without fields": (200, {}, LISTED.format("false", "<Contents/>").encode()),
    "list of no sizes": (200, {}, LISTED.format("false", "<Contents><Key>a</Key><Size>x</Size></Contents>").encode()),
    "list of no date": (
        200,
        {},
        LISTED.format(
            "false", "<Contents><Key>a</Key><LastModified>soon</LastModified><Size>1</Size></Contents>"
        ).encode(),
    ),
    "list that goes on without a marker": (200, {}, LISTED.format("true", "").encode()),
    "list of bad names": (200, {}, LISTED.format("false", "<Contents><Key>%ff%00../x</Key></Contents>").encode()),
    "part without its range": (206, {"ETag": '"e"'}, b"x" * 100),
    "part of no range": (206, {"ETag": '"e"', "Content-Range": "bytes x-y/z"}, b"x" * 100),
    "part of an unknown whole": (206, {"ETag": '"e"', "Content-Range": "bytes 0-99/*"}, b"x" * 100),
    "part of a negative whole": (206, {"ETag": '"e"', "Content-Range": "bytes 0-99/-5"}, b"x" * 100),
    "part of a huge whole": (206, {"ETag": '"e"', "Content-Range": f"bytes 0-99/{'9' * 5000}"}, b"x" * 100),
    "less than it says": (200, {"ETag": '"e"', "Content-Length": "500"}, b"x" * 100),
    "a length that is no number": (200, {"ETag": '"e"', "Content-Length": "many"}, b"x"),
    "a negative length": (200, {"ETag": '"e"', "Content-Length": "-1"}, b"x"),
    "packed that is not": (200, {"ETag": '"e"', "Content-Encoding": "gzip"}, b"x" * 100),
    "a date that is none": (200, {"ETag": '"e"', "Last-Modified": "soon"}, b"x"),
    "no content": (204, {}, b""),
    "moved nowhere": (301, {}, b""),
    "moved": (307, {"Location": "http://127.0.0.1:1/x"}, b""),
    "not modified": (304, {}, b""),
    "refused without a word": (403, {}, b""),
    "refused in xml": (403, {"Content-Type": "application/xml"}, ERROR.format("AccessDenied").encode()),
    "an error without fields": (400, {"Content-Type": "application/xml"}, b"<Error/>"),
    "an error of control characters": (400, {"Content-Type": "application/xml"}, ERROR.format("&#27;[2J").encode()),
    "teapot": (418, {"Content-Type": "text/plain"}, b"short and stout"),
}
HANG_S = 20
HASTY = S3Options(connect_timeout_s=0.3, read_timeout_s=0.3, deadline_s=0.2, backoff_s=0.01, backoff_max_s=0.02)
BIG = b"x" * (6 << 20)
CALLS: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "read": ("GET", lambda store, folder: store.read("old")),
    "get_file": ("GET", lambda store, folder: store.get_file("old", folder / "got")),
    "read_tagged": ("GET", lambda store, folder: store.read_tagged("old")),
    "size": ("HEAD", lambda store, folder: store.size("old")),
    "put": ("PUT", lambda store, folder: store.put_bytes("new", b"1")),
    "put in parts": ("POST", lambda store, folder: store.put_bytes("big", BIG)),
    "create": ("PUT", lambda store, folder: store.create("new", b"1")),
    "swap": ("PUT", lambda store, folder: store.swap("old", b"new", '"e"')),
    "list": ("LIST", lambda store, folder: store.list("a/")),
}


def asked(service: Any, store: Any, call: str, answer: str, folder: Path) -> str:
    """Make a call whose requests get one planted answer; return why it ended raw, or nothing."""
    method, function = CALLS[call]
    service.answers = {method: ANSWERS[answer]}
    service.objects["old"] = (b"old", "")
    signal.signal(signal.SIGALRM, _hung)
    signal.alarm(HANG_S)
    try:
        function(store, folder)
    except InstarError:
        return ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        service.answers = {}
    return ""


class Hung(BaseException):
    """A call did not come back."""


def _hung(*_: object) -> None:
    raise Hung(f"no end within {HANG_S} s")


# --- counting


def count(name: str, cases: Iterator[tuple[str, Callable[[], Called]]]) -> int:
    """Call every case; print how many ended raw, and how."""
    total, raws = 0, []
    for what, call in cases:
        total += 1
        if found := call().raw:
            raws.append((what, found))
    sys.stdout.write(f"{name}: {len(raws)} of {total} raw\n")
    if os.environ.get("INSTAR_SHOW"):
        for what, found in raws:
            sys.stdout.write(f"  {what[:100]!r}: {found[:160]!r}\n")
    return len(raws)


def main() -> None:
    """Print the counts of this checkout: all of them, or those that are named."""
    import shutil
    import tempfile

    from support.faulty_s3 import open_service, serving
    from support.micro import micro

    chosen = set(sys.argv[1:]) or {"set", "ledger", "s3"}
    sys.argv = sys.argv[:1]
    if "set" in chosen:
        count(
            "--set", ((text, lambda n=name, t=text: called("explain", n, "--set", t)) for name, text in settings(460))
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "ledger" in chosen:
            whole = folder / "whole"
            made(whole, micro())

            def tried(seed: int) -> tuple[str, Callable[[], Called]]:
                forged = folder / f"forged-{seed}"
                shutil.copytree(whole, forged)
                what = forge(forged, seed)
                return what, lambda: worst([called(*argv) for argv in ledger_commands(forged, whole)])

            count("forged ledgers", (tried(seed) for seed in range(72)))
        if "s3" in chosen:
            with serving() as service:
                stores = [(call, answer, open_service(service.port)) for call in CALLS for answer in ANSWERS]
                cases = (
                    (f"{c}: {a}", lambda c=c, a=a, s=s: _ended(asked(service, s, c, a, folder))) for c, a, s in stores
                )
                count("S3 answers", cases)


def _ended(crash: str) -> Called:
    return Called(code=0, out="", err="", crash=crash)


def made(folder: Path, recipe: Any) -> None:
    """Run a small evolution."""
    from instar.cli.commands import evolve_in

    with contextlib.redirect_stdout(io.StringIO()):
        evolve_in(recipe, folder, seed=0, tracking="off")


def worst(calls: list[Called]) -> Called:
    """Return the first call that ended raw, else the last."""
    return next((one for one in calls if one.raw), calls[-1])


if __name__ == "__main__":
    main()
