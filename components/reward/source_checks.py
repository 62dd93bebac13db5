"""What the source of a reward says about its soundness: clocks, random numbers, files, and text that is run as code.

The source is parsed and never run. A test that only looks at scores can miss these: a reward that changes at midnight gives equal
scores all afternoon.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from instar.components.reward.findings import Finding, Severity


@dataclass(frozen=True)
class _Rule:
    severity: Severity
    what: str
    action: str


_CLOCK = _Rule("red", "the clock", "remove it: a score that changes with the time cannot be replayed")
_RANDOM = _Rule(
    "yellow", "random numbers", "use random.Random(SEED) with a seed made from the task, or no random numbers"
)
_RUN = _Rule("red", "a text that is run as code", "parse it instead, for example with ast.literal_eval")
_SHELL = _Rule("red", "another program", "compute it in Python: what a policy writes must never reach a shell")
_FILES = _Rule("yellow", "a file", "bundle the file if it is fixed data; what calls write is gone in the next process")
_ENVIRONMENT = _Rule("yellow", "the environment", "write the value into the file: a pod has another environment")
_HASH = _Rule("yellow", "hash() of a value", "use hashlib: hash() of a text differs from process to process")
_GLOBAL = _Rule(
    "yellow", "a global variable that a function assigns", "pass it as an argument, so that no call depends on another"
)

CALLS: dict[str, _Rule] = {
    **dict.fromkeys(
        ("time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "time.strftime"), _CLOCK
    ),
    **dict.fromkeys(("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"), _CLOCK),
    "datetime.date.today": _CLOCK,
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4", "os.urandom", "os.getpid"), _RANDOM),
    **dict.fromkeys(("eval", "exec"), _RUN),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.run", "subprocess.Popen", "subprocess.check_output"), _SHELL),
    **dict.fromkeys(("subprocess.call", "subprocess.check_call", "subprocess.getoutput"), _SHELL),
    **dict.fromkeys(("open", "os.listdir", "glob.glob", "tempfile.mkstemp", "tempfile.NamedTemporaryFile"), _FILES),
    **dict.fromkeys(("os.getenv", "os.environ.get"), _ENVIRONMENT),
    "hash": _HASH,
}
METHODS: dict[str, _Rule] = dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes", "iterdir"), _FILES)
GLOBAL_RANDOM = ("random.", "numpy.random.", "secrets.", "torch.rand")
SEEDED = ("random.Random", "numpy.random.default_rng", "numpy.random.Generator", "numpy.random.RandomState")
"""Generators of random numbers that are no risk if a seed is given."""


def check_sources(files: Mapping[str, str]) -> Iterator[Finding]:
    """Yield one finding for each thing in the files that a score should not depend on, at its first line."""
    seen: set[tuple[str, str]] = set()
    for name, source in files.items():
        if not name.endswith(".py"):
            continue
        tree = ast.parse(source)
        for node, rule, said in _matches(tree):
            if (name, rule.what) in seen:
                continue
            seen.add((name, rule.what))
            yield Finding(
                check="source",
                severity=rule.severity,
                expected=f"a score that does not depend on {rule.what}",
                found=said,
                where=f"{name}:{node}",
                action=rule.action,
            )


def _matches(tree: ast.Module) -> Iterator[tuple[int, _Rule, str]]:
    names = _names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno, _GLOBAL, f"global {', '.join(node.names)}"
        elif isinstance(node, ast.Subscript) and _dotted(node.value, names) == "os.environ":
            yield node.lineno, _ENVIRONMENT, "os.environ[...]"
        elif isinstance(node, ast.Call):
            called = _dotted(node.func, names)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            rule = CALLS.get(called) or METHODS.get(method) or _random(called, node)
            if rule is not None and not _fixed(called, node):
                yield node.lineno, rule, f"{called or method}(...)"


def _random(called: str, call: ast.Call) -> _Rule | None:
    if not called.startswith(GLOBAL_RANDOM):
        return None
    return None if called in SEEDED and (call.args or call.keywords) else _RANDOM


def _fixed(called: str, call: ast.Call) -> bool:
    """Return whether a call for the time formats a time that it is told."""
    return called in ("time.localtime", "time.gmtime", "time.ctime") and bool(call.args)


def _names(tree: ast.Module) -> dict[str, str]:
    """Return the names that imports bind, with what they stand for: `np` for `numpy`, `now` for `time.time`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                names |= {alias.asname: alias.name} if alias.asname else {top: top}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _dotted(expression: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name of what an expression refers to, or an empty text: `datetime.datetime.now` for `dt.now`."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return ""
    return ".".join([names.get(expression.id, expression.id), *reversed(parts)])
