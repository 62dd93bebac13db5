"""Says why an update in several processes failed, from the files that they left (`worker` describes them)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from instar import errors
from instar.errors import InstarError, StalledError

TAIL = 600
"""Bytes of a process's log that an error quotes."""


def error(folder: Path, size: int, timeout_s: float, silent: list[int]) -> InstarError:
    """Return the instar error of a process, or else a `StalledError` that says which one died, crashed or hung.

    If one process dies, the others wait for it and fail as well. So the cause is looked for in this order: a process that a
    signal ended, a process without any error that the others waited for, and then all crashes.
    """
    records = {rank: record for rank in range(size) if (record := _json(folder / f"rank-{rank}.error.json"))}
    for record in records.values():
        kind = getattr(errors, record.pop("class"), None)
        if isinstance(kind, type) and issubclass(kind, InstarError):
            return kind(**record)
    codes = {int(rank): int(code) for rank, code in _json(folder / "ended.json").items()}
    killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM and rank not in records]
    hung = [rank for rank in silent or range(size) if rank not in records]
    if killed:
        shown = killed[0]
        cause = "; ".join(f"process {r} ended by signal {-codes[r]} after '{unit(folder, r)}'" for r in killed)
    elif hung and (silent or (records and not _all_crashed(records))):
        shown = hung[0]
        cause = "; ".join(f"process {r} silent since '{unit(folder, r)}'" for r in hung)
    else:
        shown = min(records, default=0)
        crashes = [f"process {rank}: {record['found']}" for rank, record in records.items()]
        cause = "; ".join(crashes) or _tail(folder / "torchrun.log")
    log = folder / f"rank-{shown}.log"
    return StalledError(
        expected=f"{size} processes that all finish and wait at most {timeout_s:g} s for each other",
        found=f"{cause}; {_tail(log)}" if log.is_file() else cause,
        where=f"update.processes ({log})",
        action="read the logs, then resume; if the machine has too little memory, lower update.processes",
    )


def _all_crashed(records: dict[int, dict[str, Any]]) -> bool:
    """Whether no process failed only because it waited for another."""
    waiting = ("timed out", "timeout", "connection", "peer", "socket", "nccl", "gloo")
    return not any(word in record["found"].lower() for record in records.values() for word in waiting)


def unit(folder: Path, rank: int) -> str:
    """Return the unit of work that a process reported latest."""
    return str(_json(folder / f"rank-{rank}.json").get("unit", "none"))[:200]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _tail(path: Path) -> str:
    """Return the end of a log, on one line."""
    try:
        return " | ".join(path.read_bytes()[-TAIL:].decode(errors="replace").split("\n")).strip(" |")
    except OSError:
        return "no output"
