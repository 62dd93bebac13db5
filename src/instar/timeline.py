"""The ledger as measurements over time: one point per stage and inner step, with the same names under both clocks.

Under `rounds` a stage entry is one point. Under `fused` a segment's entry holds means, and its `history`, which is read
here, a line per inner step. Names are `<stage>/<metric>`, measurements of the machine `perf/<stage>/<metric>`. `elapsed` says how
much of an iteration's wall time was work.
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
"""A longer gap without any stage is idle: stopped and resumed later, or queued. Shorter ones count as overhead."""


@dataclass(frozen=True, kw_only=True)
class Elapsed:
    """Wall time of an iteration: from the gate before it to its own, in seconds."""

    iteration: int
    at: float
    elapsed_s: float
    work_s: float
    """In which at least one stage worked."""
    idle_s: float

    @property
    def overhead_share(self) -> float:
        """Share of the time that was not idle in which no stage worked; goodput is the rest."""
        busy = self.elapsed_s - self.idle_s
        return 1.0 - self.work_s / busy if busy > 0 else 0.0

    def metrics(self) -> dict[str, float]:
        """Return what is tracked per iteration."""
        return {"overhead_share": self.overhead_share, "goodput": 1.0 - self.overhead_share, "idle_s": self.idle_s}


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


def elapsed(entries: Sequence[Entry]) -> list[Elapsed]:
    """Return the wall time of every iteration that has a gate, in order. The first counts from the opening of the ledger.

    What comes after the last gate (the test of the champion) belongs to no iteration. Stages that overlap, such as shards,
    count once: their intervals are united.
    """
    found: list[Elapsed] = []
    start: float | None = None
    stages: list[Entry] = []
    for entry in entries:
        if entry.kind == "stage":
            stages.append(entry)
        elif entry.kind == "gate":
            end = max(clock(entry), *map(clock, stages)) if stages else clock(entry)
            begin = end if start is None else start
            found.append(_elapsed(int(entry.body["iteration"]), clock(entry), begin, end, stages))
            start, stages = end, []
        elif start is None:
            start = clock(entry)
    return found


def _elapsed(iteration: int, at: float, begin: float, end: float, stages: Sequence[Entry]) -> Elapsed:
    """A stage occupies `started` to `ended`, and works for the length of its function from `started` on."""
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
    """Return disjoint intervals in order that cover the same times between `begin` and `end`."""
    found: list[tuple[float, float]] = []
    for start, stop in sorted((max(begin, start), min(end, stop)) for start, stop in intervals):
        if start >= stop:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def _started(entry: Entry) -> float:
    return float(entry.time.get("started", clock(entry)))


def _worked(entry: Entry) -> float:
    """Return the seconds of a stage's function; of a fused segment, those of the stages inside, which follow each other."""
    inner = [v for k, v in _perf(entry).items() if k.count("/") == 2 and k.endswith("/wall_s")]
    return sum(inner) if entry.body["stage"] == "fused" and inner else _perf(entry).get(f"{PERF}wall_s", 0.0)


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
