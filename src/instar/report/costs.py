"""The seconds that stages take, and the seconds between them."""

from __future__ import annotations

from dataclasses import dataclass

from instar.contract import PERF
from instar.ledger import Entry


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one stage (or `overhead`: reading inputs and committing outputs) in one iteration."""

    iteration: int
    stage: str
    wall_s: float
    cpu_s: float


def costs(entry: Entry) -> list[Cost]:
    """Return the seconds of an entry by stage. Time outside of the stage functions is overhead."""
    time, iteration, stage = entry.time, int(entry.body["iteration"]), entry.body["stage"]
    wall, cpu = float(time.get("perf/wall_s", 0.0)), float(time.get("perf/cpu_s", 0.0))
    parts = [Cost(iteration=iteration, stage=stage, wall_s=wall, cpu_s=cpu)]
    if stage == "fused":
        names = sorted(
            {n.split("/")[1] for n in time if n.startswith(PERF) and n.count("/") == 2 and n.endswith("/wall_s")}
        )
        parts = [
            Cost(
                iteration=iteration,
                stage=n,
                wall_s=float(time[f"perf/{n}/wall_s"]),
                cpu_s=float(time.get(f"perf/{n}/cpu_s", 0)),
            )
            for n in names
        ]
    whole = float(time.get("ended", 0.0)) - float(time.get("started", 0.0))
    rest = max(0.0, whole - sum(p.wall_s for p in parts))
    return [
        *parts,
        Cost(iteration=iteration, stage="overhead", wall_s=rest, cpu_s=max(0.0, cpu - sum(p.cpu_s for p in parts))),
    ]


def stage_totals(found: list[Cost]) -> list[tuple[str, float, float]]:
    """Return (stage, wall seconds, CPU seconds) in order of wall time."""
    names = sorted({c.stage for c in found})
    totals = [
        (n, sum(c.wall_s for c in found if c.stage == n), sum(c.cpu_s for c in found if c.stage == n)) for n in names
    ]
    return sorted(totals, key=lambda t: -t[1])


def overhead(found: list[Cost]) -> float | None:
    """Return the share of wall time outside of the stage functions, or None before the first stage."""
    total = sum(c.wall_s for c in found)
    return sum(c.wall_s for c in found if c.stage == "overhead") / total if total else None
