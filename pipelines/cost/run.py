"""One segment's seconds: the longest chain of its tasks, split into work and what surrounds work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instar.pipelines.cost import sizes
from instar.pipelines.cost.case import Case
from instar.pipelines.cost.constants import Constants
from instar.pipelines.cost.work import work_s
from instar.pipelines.trace import Graph, Kind, Task, trace

MOST_SHARDS = 16
"""Above this a rollout is one gang job instead of a ParallelFor."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One pipeline run. `fixed` names the seconds on its longest chain, `work_s` the rest of that chain."""

    tasks: int
    pods: int
    chain: tuple[str, ...]
    fixed: Mapping[str, float]
    work_s: float

    @property
    def fixed_s(self) -> float:
        """Seconds in which no stage works."""
        return sum(self.fixed.values())

    @property
    def overhead(self) -> float:
        """`fixed / (fixed + work)`."""
        return self.fixed_s / (self.fixed_s + self.work_s)


def segment(case: Case, kind: Kind, unroll: int = 1) -> Segment:
    """Return one kind of segment of `unroll` iterations."""
    graph = trace(case.recipe, kind, unroll)
    chain = longest(graph, lambda task: sum(fixed(task, case).values()) + work_s(task, case))
    causes = {"pods": case.constants.driver_s}
    for task in chain:
        for cause, seconds in fixed(task, case).items():
            causes[cause] = causes.get(cause, 0.0) + seconds
    if kind == "begin" and case.gpus and "evaluate" in (task.kind for task in chain):
        causes["engine"] += (
            case.constants.engine_cold_s - case.constants.engine_warm_s
        )  # the first start fills the caches
    return Segment(
        tasks=len(graph.tasks),
        pods=1 + sum(pods(task, case) for task in graph.tasks),
        chain=tuple(task.kind for task in chain),
        fixed=causes,
        work_s=sum(work_s(task, case) for task in chain),
    )


def pods(task: Task, case: Case) -> int:
    """Return the pods of a task: driver and executor, and those of its gang or of its shards (counted with the first)."""
    if task.shard:
        return fan_out(task.shard.total) if task.shard.number == 0 else 0
    return 2 + (case.gang(task) if case.gang(task) > 1 else 0)


def fixed(task: Task, case: Case) -> dict[str, float]:
    """Return the seconds around the work of a task, by cause."""
    c = case.constants
    found = {"pods": c.driver_s + c.executor_s}
    if task.stage is None:
        return found
    if task.shard and task.shard.total <= MOST_SHARDS:
        found["pods"] += 2 * c.driver_s  # the loop's driver and the iteration's
    elif task.shard or case.gang(task) > 1:
        found["pods"] += c.executor_s  # the gang starts after the pod that creates it
    engines, trainers = task.kind in ("rollout", "evaluate", "fused"), task.kind in ("update", "fused")
    found["engine"] = engines * (c.engine_warm_s if case.gpus else c.imports_s)
    found["trainer"] = trainers * (c.trainer_s if case.gpus else 0.0 if engines else c.imports_s)
    return found | _bytes(task, case)


def _bytes(task: Task, case: Case) -> dict[str, float]:
    """Return the seconds of fetching, storing and hashing. Every member of a gang fetches the weights."""
    c, read, written = case.constants, sizes.read(task, case), sizes.written(task, case)
    pulled, pushed = sum(size for _, size in read), sum(size for _, size in written)
    weights = sum(size for kind, size in read if kind == "Policy")
    in_all = pulled * task.shard.total if task.shard else pulled + weights * (case.gang(task) - 1)
    moved = pull_seconds(c, pulled, in_all, c.store_gb_s) + pull_seconds(c, pushed, pushed, c.store_gb_s)
    hashed = c.hashes_pulled * pulled + c.hashes_pushed * pushed  # inner steps of a fused segment hash nothing large
    return {"bytes": moved, "hashes": hashed / 1e9 / c.hash_gb_s}


def longest(graph: Graph, seconds: Callable[[Task], float]) -> list[Task]:
    """Return the chain of tasks that ends last when every task starts as soon as those it waits for have ended."""
    chains: dict[str, tuple[float, list[Task]]] = {}
    for task in graph.tasks:
        waits = {ref.task for ref in task.inputs.values()} | set(task.after)
        before = max((chains[name] for name in waits), key=lambda chain: chain[0], default=(0.0, []))
        chains[task.name] = (before[0] + seconds(task), [*before[1], task])
    return max(chains.values(), key=lambda chain: chain[0])[1]


def pull_seconds(constants: Constants, per_node: float, in_all: float, store_gb_s: float) -> float:
    """Return the seconds of a transfer in which every node moves `per_node` bytes and the store `in_all`, both at once."""
    return max(per_node / constants.node_gb_s, in_all / store_gb_s) / 1e9


def fan_out(shards: int) -> int:
    """Return the pods of a rollout in shards: ParallelFor (1, and 3 per item), or the pods of one gang and its launcher."""
    return 1 + 3 * shards if shards <= MOST_SHARDS else 2 + shards
