"""The ledger as measurements over time: one point per stage and inner step, with the same names under both clocks.

Under `rounds` a stage entry is one point. Under `fused` a segment's entry holds means, and its `history`, which is read
here, a line per inner step. Names are `<stage>/<metric>`, measurements of the machine `perf/<stage>/<metric>`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from instar.artifact import History
from instar.contract import PERF
from instar.errors import ArtifactError
from instar.ledger import Entry, Ledger
from instar.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Point:
    """Metrics of one inner step, or of one stage of it. `at` is the clock of the ledger entry, in seconds."""

    iteration: int
    step: int
    at: float
    metrics: dict[str, float]


def qualified(stage: str, name: str) -> str:
    """Return `<stage>/<name>`, or `perf/<stage>/<name>`; a stage name that is already there is not repeated."""
    if name.startswith(PERF):
        return f"{PERF}{qualified(stage, name.removeprefix(PERF))}"
    return f"{stage}/{name.removeprefix(f'{stage}/')}"


def points(workspace: Workspace, entry: Entry) -> list[Point]:
    """Return the points of one stage entry in order of steps. The machine's measurements come with the last."""
    whole = summary(workspace.ledger, entry)
    if "history" not in entry.body["outputs"]:
        return [whole]
    lines = _history(workspace, entry.body["outputs"]["history"])
    found = [Point(iteration=whole.iteration, step=step, at=whole.at, metrics=metrics) for step, metrics in lines]
    found[-1].metrics.update({k: v for k, v in whole.metrics.items() if k.startswith(PERF)})
    return found


def summary(ledger: Ledger, entry: Entry) -> Point:
    """Return what a stage entry itself says: means over the segment under `fused`.

    The step is the last inner step covered; for an evaluation it is the number of inner steps before it.
    """
    stage, fused = entry.body["stage"], entry.body["stage"] == "fused"
    metrics = {}
    for name, value in {**entry.body["metrics"], **_perf(entry)}.items():
        inner, _, rest = name.removeprefix(PERF).partition("/")
        owner, local = (inner, rest) if fused and rest else (stage, name.removeprefix(PERF))
        metrics[qualified(owner, PERF + local if name.startswith(PERF) else local)] = float(value)
    step = int(entry.body["step"])
    if stage == "evaluate":
        step = int(entry.body["iteration"]) * inner_steps(ledger)
    elif fused:
        step += int(entry.body["metrics"]["inner_steps"]) - 1
    return Point(iteration=entry.body["iteration"], step=step, at=clock(entry), metrics=metrics)


def inner_steps(ledger: Ledger) -> int:
    """Return the inner steps per iteration of the recipe that opened the ledger."""
    opened = next(ledger.of("open"), None)
    return int(opened.body["recipe"]["inner_steps"]) if opened else 1


def clock(entry: Entry) -> float:
    """Return the time at which an entry was written, in seconds since 1970."""
    return float(entry.time.get("ended", entry.time.get("at", 0.0)))


def _perf(entry: Entry) -> dict[str, float]:
    return {k: float(v) for k, v in entry.time.items() if k.startswith(PERF)}


def _history(workspace: Workspace, digest: str) -> list[tuple[int, dict[str, float]]]:
    path: Path = History(workspace.cas.get(digest), digest).path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not lines:
        raise ArtifactError(
            expected="a line per inner step",
            found="an empty file",
            where=f"{digest}/metrics.jsonl",
            action="restore the store",
        )
    found = []
    for line in lines:
        metrics = {}
        for name, value in line.items():
            stage, _, rest = name.partition("/")
            if rest:
                metrics[qualified(stage, rest)] = float(value)
        found.append((int(line["step"]), metrics))
    return found
