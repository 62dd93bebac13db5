"""`instar supervise -- COMMAND ARG...`: the first process (PID 1) of every stage container.

- It runs the command again if its exit code is that of a transient error.
- It passes signals on to the command, and reaps orphans.
- It stops a command that is silent for too long. Before that, the command writes its stacks.
- It writes the reason of the end into the container's termination log.

It uses the standard library only, and runs on Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from instar import terminal
from instar.border import ended
from instar.errors import BY_CODE, ConfigError, InstarError, ProcessError, StalledError
from instar.limits import Limits
from instar.memory_limits import killed
from instar.pipelines.supervise.child import Child, adopt_orphans, pause

TERMINATION_LOG, TERMINATION_BYTES = "/dev/termination-log", 4096
"""Kubernetes reads the reason from this file, and keeps this many bytes. INSTAR_TERMINATION_LOG names another file."""
BACKOFF_CAP_S, POLL_S = 300.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run, how often, and with which limits. `retries` is the number of attempts after the first.

    `limits.stall_s` holds for each attempt. `limits.stage_s` holds for all attempts and their pauses together, as the pod's
    deadline does.
    """

    command: tuple[str, ...]
    retries: int
    backoff_s: float
    grace_s: float
    limits: Limits

    @property
    def name(self) -> str:
        """The first words of the command. The whole command is too long for a log."""
        return " ".join(self.command[:3])[:200]


@dataclass(frozen=True, kw_only=True)
class End:
    """How an attempt ended: the exit code, whether another attempt can help, and the error that says what happened."""

    code: int
    again: bool
    error: InstarError | None


def main(argv: Sequence[str]) -> int:
    """Supervise a command and return its exit code: 128+n if signal n ended it, 76 if it stalled."""
    options = parse(argv, os.environ)
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="instar-supervise-", ignore_cleanup_errors=True) as folder:
        end, attempts = _supervise(options, Path(folder) / "heartbeat.json")
    log = Path(os.environ.get("INSTAR_TERMINATION_LOG", TERMINATION_LOG))
    if log.exists() and os.access(log, os.W_OK):
        log.write_bytes(_reason(end, attempts))
    if end.error is not None:
        _say(end.error.render())
    return end.code


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Options:
    """Read the options. Their defaults come from the environment, for example from `INSTAR_RETRIES` and `INSTAR_STALL_S`."""
    parser = _Parser(prog="instar supervise", description=main.__doc__, allow_abbrev=False)
    limits = Limits(poll_s=POLL_S)
    seconds = {"backoff_s": 5.0, "grace_s": 25.0, "stall_s": limits.stall_s, "stage_s": limits.stage_s}
    parser.add_argument("--retries", type=_count, default=env.get("INSTAR_RETRIES", "3"))
    for name, value in seconds.items():
        default = env.get(f"INSTAR_{name.upper()}", str(value))
        parser.add_argument(f"--{name.replace('_', '-')}", type=_seconds, default=default)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(list(argv))
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        parser.error("no command")
    return Options(
        command=tuple(command),
        retries=args.retries,
        backoff_s=args.backoff_s,
        grace_s=args.grace_s,
        limits=Limits(stage_s=args.stage_s, stall_s=args.stall_s, poll_s=min(POLL_S, args.stall_s / 4)),
    )


def backoff(first_s: float, attempt: int, host: str) -> float:
    """Return the seconds to wait after `attempt`.

    The wait doubles with each attempt, up to `BACKOFF_CAP_S`. A hash of the host shortens it by up to a half, so that pods that
    failed together do not come back together.
    """
    share = int.from_bytes(hashlib.sha256(f"{host}/{attempt}".encode()).digest()[:4], "big") / 2**32
    return min(BACKOFF_CAP_S, first_s * 2.0 ** (attempt - 1)) * (1.0 - share / 2)


def _supervise(options: Options, heartbeat: Path) -> tuple[End, int]:
    """Run the command until no other attempt can help or no time is left. Return the last end and the number of attempts."""
    began = time.monotonic()
    for attempt in itertools.count(1):
        heartbeat.unlink(missing_ok=True)
        end = _attempt(options, heartbeat, attempt, time.monotonic() - began)
        if not end.again or attempt > options.retries:
            return end, attempt
        wait_s = backoff(options.backoff_s, attempt, os.environ.get("HOSTNAME", ""))
        said = f"supervise: attempt {attempt} of {options.retries + 1}: {end.error}; "
        if time.monotonic() - began + wait_s >= options.limits.stage_s:
            _say(f"{said}no time for another attempt within the {options.limits.stage_s:g} s of the stage")
            return end, attempt
        _say(f"{said}next attempt in {wait_s:.1f} s")
        if number := pause(wait_s):
            return _end(options, 128 + number, f"signal {number} before attempt {attempt + 1}", again=False), attempt
    raise AssertionError


def _attempt(options: Options, heartbeat: Path, attempt: int, spent_s: float) -> End:
    limits = replace(options.limits, stage_s=options.limits.stage_s - spent_s)
    earlier = f"; {spent_s:.1f} s of {options.limits.stage_s:g} s went to earlier attempts" if attempt > 1 else ""
    where = f"{options.name} (stacks above{earlier})"
    try:
        child = Child(options.command, heartbeat, limits, options.grace_s, where)
    except OSError as error:
        code = 126 if isinstance(error, PermissionError) else 127
        return _end(options, code, f"{error.strerror}: the command did not start", again=False)
    code = child.run()
    if child.stopped:
        return _end(options, code, f"exit code {code} after signal {child.stopped}", again=False)
    if child.stalled is not None:
        return End(code=StalledError.exit_code, again=True, error=child.stalled)
    kind = BY_CODE.get(code)
    meaning = f" ({kind.__name__})" if kind else f" ({killed(code - 128)})" if 128 < code < 193 else ""
    found = f"exit code {code}{meaning} in attempt {attempt}"
    return _end(options, code, found, again=kind is not None and kind.transient)


def _end(options: Options, code: int, found: str, *, again: bool) -> End:
    if code == 0:
        return End(code=0, again=False, error=None)
    action = "trying again can help" if again else "read the output above; trying again does not help by itself"
    kind = BY_CODE.get(code, ProcessError)
    return End(
        code=code, again=again, error=kind(expected="exit code 0", found=found, where=options.name, action=action)
    )


def _reason(end: End, attempts: int) -> bytes:
    """Return one line of JSON that fits into the termination log. Texts that are too long are cut, so that the JSON stays whole."""
    fields: dict[str, object] = {"code": end.code, "attempts": attempts}
    fields |= {"class": type(end.error).__name__} if end.error else {}
    told = {k: str(getattr(end.error, k)) for k in ("expected", "found", "where", "action")} if end.error else {}
    line, room = b"", TERMINATION_BYTES
    while not line or len(line) > TERMINATION_BYTES:
        fields |= {k: text[:room] for k, text in told.items()}
        line, room = json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n", room * 3 // 4
    return line


def _say(text: str) -> None:
    terminal.warn(f"{text}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise a named error. argparse would exit with code 2, which means `could not tell` here."""
        raise ConfigError(
            expected="[--retries N] [--backoff-s S] [--grace-s S] [--stall-s S] [--stage-s S] -- COMMAND ARG...",
            found=message,
            where="instar supervise: options, or INSTAR_RETRIES, INSTAR_STALL_S and so on",
            action="put the options before `--` and the command after it",
        )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0.0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


if __name__ == "__main__":
    raise SystemExit(ended(lambda: main(sys.argv[1:])))
