"""How long a stage may run, and how long it may be silent. Standard library only: PID 1 of every container imports this.

Time is taken from the monotonic clock. So no stage is stopped because the wall clock was set or the machine was suspended.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from instar.errors import StalledError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A stage may run for `stage_s` seconds in all. It may be without a heartbeat for `stall_s` seconds."""

    stage_s: float = 6 * 3600.0
    stall_s: float = 1800.0
    poll_s: float = 0.1


class Watch:
    """Compares a running stage with its limits. Any change of the heartbeat file counts as a heartbeat."""

    def __init__(self, heartbeat: Path, limits: Limits, where: str) -> None:
        self.heartbeat, self.limits, self.where = heartbeat, limits, where
        self._started = self._beat = time.monotonic()
        self._stamp = self._look()

    def overdue(self) -> StalledError | None:
        """Return the error to raise when a limit has passed, otherwise None."""
        now, stamp = time.monotonic(), self._look()
        if stamp != self._stamp:
            self._stamp, self._beat = stamp, now
        silent, running = now - self._beat, now - self._started
        if running <= self.limits.stage_s and silent <= self.limits.stall_s:
            return None
        return StalledError(
            expected=f"a heartbeat every {self.limits.stall_s:g} s and an end within {self.limits.stage_s:g} s",
            found=f"{silent:.0f} s of silence after {running:.0f} s; last unit: {self._unit()}",
            where=self.where,
            action="resume; if it stalls again, read the stacks of its threads",
        )

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self.heartbeat.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _unit(self) -> str:
        try:
            return str(json.loads(self.heartbeat.read_text())["unit"])[:200]
        except (OSError, ValueError, KeyError, TypeError):
            return "none"
