"""The measurements of a ledger over time: one point per stage and inner step, with the same names under both clocks.

Under `rounds` each stage entry is one point. Under `fused` the entry of a segment holds means; its artifact `history` holds one
line per inner step, and is read here. Metrics are named `<stage>/<metric>`. Measurements of the machine are named
`perf/<stage>/<metric>`. `elapsed` says how much of the wall time of an iteration was work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from instar.artifact import History
from instar.contract import PERF
from instar.errors import ArtifactError
from instar.ledger import Entry, Ledger
from instar.workspace import Workspace

IDLE_S = 600.0
"""A gap of more seconds without any stage counts as idle: the run was stopped or queued. A shorter gap counts as overhead."""


@dataclass(frozen=True, kw_only=True)
class Elapsed:
    """Wall time of an iteration in seconds, from the gate of the iteration before to its own gate."""

    iteration: int
    at: float
    elapsed_s: float
    work_s: float
    """Seconds in which at least one stage worked."""
    idle_s: float

    @property
    def overhead_share(self) -> float:
        """Share of the time, without idle time, in which no stage worked. The rest is the goodput."""
        busy = self.elapsed_s - self.idle_s
        return 1.0 - self.work_s / busy if busy > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        """Return what is tracked per iteration."""
        return {"overhead_share": self.overhead_share, "goodput": 1.0 - self.overhead_share, "idle_s": self.idle_s}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Metrics of one inner step, or of one stage in it. `at` is the time of the ledger entry, in seconds since 1970."""

    iteration: int
    step: int
    at: float
    metrics: dict[str, float]


def qualified(stage: str, name: str) -> str:
    """Return `<stage>/<name>`, or `perf/<stage>/<name>`. If `name` begins with the stage already, it is not repeated."""
    if name.startswith(PERF):
        return f"{PERF}{qualified(stage, name.removeprefix(PERF))}"
    return f"{stage}/{name.removeprefix(f'{stage}/')}"


def points(workspace: Workspace, entry: Entry) -> list[Point]:
    """Return the points of one stage entry in order of steps. The last point also has the measurements of the machine."""
    whole = summary(workspace.ledger, entry)
    if "history" not in entry.body["outputs"]:
        return [whole]
    lines = _history(workspace, entry.body["outputs"]["history"])
    step_points = [Point(iteration=whole.iteration, step=step, at=whole.at, metrics=metrics) for step, metrics in lines]
    step_points[-1].metrics.update({k: v for k, v in whole.metrics.items() if k.startswith(PERF)})
    return step_points


def summary(ledger: Ledger, entry: Entry) -> Point:
    """Return the metrics in a stage entry as one point. Under `fused` they are means over the segment.

    The step of the point is the last inner step of the entry. For an evaluation it is the number of inner steps before it.
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
    return int(ledger.recipe.get("inner_steps", 1))


def clock(entry: Entry) -> float:
    """Return the time at which an entry was written, in seconds since 1970."""
    return float(entry.time.get("ended", entry.time.get("at", 0.0)))


def elapsed(entries: Sequence[Entry]) -> list[Elapsed]:
    """Return the wall time of every iteration that has a gate, in order. The first one begins when the ledger is opened.

    Stages after the last gate (the test of the champion) belong to no iteration. The first iteration after an extension begins
    when the evolution is extended. If stages overlap, as shards do, the time
    counts once.
    """
    iterations: list[Elapsed] = []
    start: float | None = None
    stages: list[Entry] = []
    for entry in entries:
        if entry.kind == "stage":
            stages.append(entry)
        elif entry.kind == "gate":
            end = max(clock(entry), *map(clock, stages)) if stages else clock(entry)
            begin = end if start is None else start
            iterations.append(_elapsed(int(entry.body["iteration"]), clock(entry), begin, end, stages))
            start, stages = end, []
        elif entry.kind == "extend":
            start, stages = clock(entry), []
        elif start is None:
            start = clock(entry)
    return iterations


def _elapsed(iteration: int, at: float, begin: float, end: float, stages: Sequence[Entry]) -> Elapsed:
    """Return the times of one iteration.

    A stage occupies the time from `started` to `ended`. It works from `started` on for as long as its function takes.
    """
    occupied = union([(_started(e), clock(e)) for e in stages], begin, end)
    edges = [begin, *(edge for interval in occupied for edge in interval), end]
    gaps = [after - before for before, after in zip(edges[::2], edges[1::2], strict=True)]
    worked = union([(_started(e), _started(e) + _worked(e)) for e in stages], begin, end)
    return Elapsed(
        iteration=iteration,
        at=at,
        elapsed_s=end - begin,
        work_s=sum(stop - start for start, stop in worked),
        idle_s=sum((gap for gap in gaps if gap > IDLE_S), 0.0),
    )


def union(intervals: Iterable[tuple[float, float]], begin: float, end: float) -> list[tuple[float, float]]:
    """Return the union of the intervals, cut to `begin` and `end`, as disjoint intervals in order."""
    merged: list[tuple[float, float]] = []
    for start, stop in sorted((max(begin, start), min(end, stop)) for start, stop in intervals):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged


def _started(entry: Entry) -> float:
    return float(entry.time.get("started", clock(entry)))


def _worked(entry: Entry) -> float:
    """Return the seconds that the function of a stage took. For a fused segment, add up the stages inside it."""
    inner = [v for k, v in _perf(entry).items() if k.count("/") == 2 and k.endswith("/wall_s")]
    return sum(inner) if entry.body["stage"] == "fused" and inner else _perf(entry).get(f"{PERF}wall_s", 0.0)


def _perf(entry: Entry) -> dict[str, float]:
    return {k: float(v) for k, v in entry.time.items() if k.startswith(PERF)}


def _history(workspace: Workspace, digest: str) -> list[tuple[int, dict[str, float]]]:
    path: Path = History(workspace.cas.get(digest), digest).path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not lines:
        raise ArtifactError(
            expected="one line per inner step",
            found="an empty file",
            where=f"{digest}/metrics.jsonl",
            action="restore the store",
        )
    steps = []
    for line in lines:
        metrics = {}
        for name, value in line.items():
            stage, _, rest = name.partition("/")
            if rest:
                metrics[qualified(stage, rest)] = float(value)
        steps.append((int(line["step"]), metrics))
    return steps
