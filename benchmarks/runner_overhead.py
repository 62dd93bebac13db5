"""What the local runner adds to a stage: hashing, storing, ledger, fetching inputs; as a share of the stage's CPU time.

A chain of stages computes for one second each and writes a policy: 2 MB, about what the tiny scale writes with its
optimiser state, and 32 MB, which shows what the bytes cost.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import seeds
from instar.artifact import Policy
from instar.contract import Context, Metrics, Stage
from instar.pipelines.local import LocalRunner
from instar.workspace import create_workspace

BAR, STAGES, STAGE_S = 0.02, 6, 1.0
SIZES = (2 << 20, 32 << 20)


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The policy of the stage before."""

    policy: Policy | None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """Another policy."""

    policy: Policy


@dataclass(frozen=True, kw_only=True)
class Config:
    """CPU seconds to compute for, bytes to write."""

    seconds: float = STAGE_S
    size: int


def work(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Compute, then write files whose bytes depend on the step."""
    end, count = time.process_time() + config.seconds, 0
    while time.process_time() < end:
        count += sum(range(1000)) > 0
    outs.policy.write_json("config.json", {"first": ins.policy is None})
    (outs.policy.path / "model.safetensors").write_bytes(seeds.rng("benchmark", ctx.step, "work").bytes(config.size))
    return {"perf/loops": float(count)}


STAGE = Stage("work", Ins, Outs, Config, work)


def run() -> list[dict[str, Any]]:
    """Return one row per size; the bar is for the smaller one."""
    rows = []
    for size in SIZES:
        cpu, wall, added = chain(size)
        row = {"row": f"{size >> 20} MB policy, {STAGE_S:g} s of CPU per stage", "share_cpu": cpu, "share_wall": wall}
        rows.append({**row, "added_cpu_s": added})
    return [{**rows[0], "bar": f"< {BAR:.0%} of CPU", "met": rows[0]["share_cpu"] < BAR}, *rows[1:]]


def chain(size: int) -> tuple[float, float, float]:
    """Return medians over a chain of stages: added share of CPU time, of wall time, added CPU seconds."""
    shares, walls, added = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        runner = LocalRunner(create_workspace(Path(folder), "benchmark"))
        policy: Policy | None = None
        for step in range(STAGES):
            cpu, wall = time.process_time(), time.perf_counter()
            policy = runner.call(STAGE, Config(size=size), iteration=0, step=step, policy=policy).policy
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            inside = runner.workspace.ledger.entries[-1].time
            added.append(cpu - inside["perf/cpu_s"])
            shares.append(added[-1] / cpu)
            walls.append((wall - inside["perf/wall_s"]) / wall)
        assert len(runner.workspace.ledger.entries) == STAGES
    return statistics.median(shares[1:]), statistics.median(walls[1:]), statistics.median(added[1:])
