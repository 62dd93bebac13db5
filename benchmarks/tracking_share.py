"""MLflow and validation as shares of an iteration of the SEC recipe at the tiny scale.

Measured is CPU time: of `Tracker.sync`, of every check of a table against its row type, and of the whole iteration.
What comes before the second iteration connects to MLflow and is left out; its cost is reported beside, as is the Great
Expectations run, which happens once per evolution. The warm start is shortened: it is no part of an iteration.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from instar import artifact, quality, schema
from instar.cli.commands import resolve
from instar.events import Event, StageDone, StageStarted
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.tracking import Tracker
from instar.workspace import create_workspace

BAR = 0.03
CHANGES = ("iterations=4", "dataset_prep.initial.warm_start.steps=40")


class Meter:
    """CPU seconds per iteration, in all and in the validated and tracked parts."""

    def __init__(self) -> None:
        self.total: dict[int, float] = {}
        self.parts: dict[str, dict[int, float]] = {"tracking": {}, "validation": {}, "gate": {}}
        self.iteration, self._since = 0, time.process_time()

    def turn(self, iteration: int) -> None:
        """Charge what passed since the last turn to the iteration that was running."""
        now = time.process_time()
        self.total[self.iteration] = self.total.get(self.iteration, 0.0) + now - self._since
        self.iteration, self._since = iteration, now

    def timed(self, part: str, function: Any) -> Any:
        """Return `function`, charged to `part`."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.parts[part]
                spent[self.iteration] = spent.get(self.iteration, 0.0) + time.process_time() - began

        return wrapped


def run() -> list[dict[str, Any]]:
    """Run four iterations with tracking and return the shares."""
    meter, recipe = Meter(), resolve("sec", "tiny", None, None, CHANGES)
    with tempfile.TemporaryDirectory() as folder:
        workspace = create_workspace(Path(folder), "benchmark")
        open_evolution(workspace, recipe, 0)
        tracker = Tracker(None, workspace)
        sync = meter.timed("tracking", tracker.sync)

        def listener(event: Event) -> None:
            if isinstance(event, StageStarted) and event.iteration != meter.iteration:
                sync()
                meter.turn(event.iteration)
            elif isinstance(event, StageDone):
                assert not event.cached

        checks = meter.timed("validation", schema.check)
        with (
            mock.patch.object(schema, "check", checks),
            mock.patch.object(artifact.schema, "check", checks),
            mock.patch.object(quality, "run_gate", meter.timed("gate", quality.run_gate)),
        ):
            evolve(LocalRunner(workspace, "inprocess", listener, threads=recipe.threads), recipe)
        assert sync(), "MLflow did not take the ledger"
        meter.turn(-1)
    tracking, validation = meter.parts["tracking"], meter.parts["validation"]
    later = [k for k in sorted(meter.total) if k > 1]
    share = {
        name: statistics.median(spent.get(k, 0.0) / meter.total[k] for k in later)
        for name, spent in (("tracking", tracking), ("validation", validation))
    }
    both = share["tracking"] + share["validation"]
    row = {
        "row": f"{recipe.inner_steps} inner steps",
        "iteration_cpu_s": statistics.median(meter.total[k] for k in later),
    }
    once = {"connect_cpu_s": tracking.get(0, 0.0), "great_expectations_cpu_s": meter.parts["gate"].get(0, 0.0)}
    shares = {"share_tracking": share["tracking"], "share_validation": share["validation"]}
    return [{**row, **shares, **once, "bar": f"< {BAR:.0%}", "met": both < BAR}]
