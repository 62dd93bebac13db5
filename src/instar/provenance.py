"""Which code of the user an evolution ran with, and how the code of two evolutions differs.

opening entry: brought.reward_code = sha256:86288f12...  ->  reward     rew.py:reward 86288f12
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from instar.artifact import Code
from instar.ledger import Ledger
from instar.workspace import Workspace

SUFFIX = "_code"
"""Entries of the state with this ending hold code: `reward_code`, for example."""
SHORT = 8
"""How many digits of a digest are enough to tell two apart at a glance."""
DIFF_LINES = 400
"""How many lines of differences are shown."""


def brought(ledger: Ledger) -> dict[str, str]:
    """Return what the user brought, by name, with its digest."""
    opened = next(ledger.of("open"), None)
    return dict(opened.body.get("brought", {})) if opened is not None else {}


def codes(workspace: Workspace) -> dict[str, Code]:
    """Return the code that the user brought, by name."""
    digests = {name: digest for name, digest in brought(workspace.ledger).items() if name.endswith(SUFFIX)}
    return {name: Code(workspace.cas.get(digest), digest) for name, digest in digests.items()}


def facts(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Return digest and entries of the code that the user brought, for `show --json`."""
    return {
        name: {"digest": code.digest, "entries": code.read_json("code.json")["entries"]}
        for name, code in codes(workspace).items()
    }


def line(name: str, about: Mapping[str, Any]) -> str:
    """Return for example `reward     rew.py:reward 86288f12`."""
    return f"{name.removesuffix(SUFFIX):<10} {' '.join(about['entries'])} {short(about['digest'])}"


def short(digest: str) -> str:
    """Return the first digits of a digest."""
    return digest.partition(":")[2][:SHORT]


def differences(left: Workspace, right: Workspace) -> str:
    """Return the unified diff of the code that differs, or an empty text. It is cut after `DIFF_LINES` lines."""
    one, two = codes(left), codes(right)
    lines = [line for name in sorted({*one, *two}) for line in _differences(name, one.get(name), two.get(name))]
    more = [f"... {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return "".join(f"{line}\n" for line in [*lines[:DIFF_LINES], *more])


def _differences(name: str, left: Code | None, right: Code | None) -> Iterator[str]:
    if left is None or right is None:
        yield f"{name}: only {'the second' if left is None else 'the first'} brings it"
        return
    if left.digest == right.digest:
        return
    yield f"{name}: {short(left.digest)} and {short(right.digest)}"
    one, two = _texts(left), _texts(right)
    for file in sorted({*one, *two}):
        before, after = (f"{side}/{file}" if file in texts else "/dev/null" for side, texts in (("a", one), ("b", two)))
        yield from difflib.unified_diff(one.get(file, []), two.get(file, []), before, after, lineterm="")


def _texts(code: Code) -> dict[str, list[str]]:
    """Return the lines of every file of a bundle, and of what else it is made of. A binary file is one line, its digest."""
    about, out = code.read_json("code.json"), {}
    for name, digest in about["files"].items():
        data = (code.path / "files" / name).read_bytes()
        try:
            out[name] = data.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            out[name] = [f"{len(data)} bytes, sha256 {digest}"]
    return {**out, "requirements": about["requirements"], "entries": about["entries"], "python": [about["python"]]}
