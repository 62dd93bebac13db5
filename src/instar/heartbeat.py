"""The heartbeat of a stage: a small file that names the last unit of work that is done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Heartbeat:
    """Passes every completed unit on, and writes the last one to a file, at most five times a second."""

    def __init__(self, path: Path, stage: str, pass_on: Callable[[str, Mapping[str, float]], None]) -> None:
        self.path, self.stage, self.pass_on, self._last = path, stage, pass_on, 0.0
        self._waiting: dict[str, Any] | None = None

    def __call__(self, unit: str, metrics: Mapping[str, float]) -> None:
        """Record that `unit` is done."""
        self.pass_on(unit, metrics)
        self._waiting = {"stage": self.stage, "unit": unit, "at": time.time(), "metrics": dict(metrics)}
        if time.monotonic() - self._last >= 0.2:
            self.settle()

    def settle(self) -> None:
        """Write the last unit if it is not yet in the file."""
        if self._waiting is None:
            return
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(self._waiting))
        temporary.replace(self.path)
        self._last, self._waiting = time.monotonic(), None
