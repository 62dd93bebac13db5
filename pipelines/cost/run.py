"""Predicts the seconds of one segment: those of the longest chain of its nodes, divided into work and fixed seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instar.pipelines.cost import sizes
from instar.pipelines.cost.case import Case
from instar.pipelines.cost.constants import Constants
from instar.pipelines.cost.work import work_s
from instar.pipelines.trace import Graph, Kind, Node, trace

MOST_SHARDS = 16
"""A rollout of more shards is one gang job instead of a ParallelFor."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One run. `work_s` are the seconds of work on its longest chain. `fixed` are the other seconds of that chain, by cause."""

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
    chain = longest(graph, lambda node: sum(fixed(node, case).values()) + work_s(node, case))
    causes = {"pods": case.constants.driver_s}
    for node in chain:
        for cause, seconds in fixed(node, case).items():
            causes[cause] = causes.get(cause, 0.0) + seconds
    if kind == "begin" and case.gpus and "evaluate" in (node.kind for node in chain):
        causes["engine"] += (
            case.constants.engine_cold_s - case.constants.engine_warm_s
        )  # the first start fills the caches
    return Segment(
        tasks=len(graph.nodes),
        pods=1 + sum(pods(node, case) for node in graph.nodes),
        chain=tuple(node.kind for node in chain),
        fixed=causes,
        work_s=sum(work_s(node, case) for node in chain),
    )


def pods(node: Node, case: Case) -> int:
    """Return the pods of a node: driver, executor, and the pods of its gang. All shards are counted with the first one."""
    if node.shard:
        return fan_out(node.shard.total) if node.shard.number == 0 else 0
    return 2 + (case.gang(node) if case.gang(node) > 1 else 0)


def fixed(node: Node, case: Case) -> dict[str, float]:
    """Return the seconds around the work of a node, by cause."""
    c = case.constants
    seconds = {"pods": c.driver_s + c.executor_s}
    if node.stage is None:
        return seconds
    if node.shard and node.shard.total <= MOST_SHARDS:
        seconds["pods"] += 2 * c.driver_s  # the loop's driver and the iteration's
    elif node.shard or case.gang(node) > 1:
        seconds["pods"] += c.executor_s  # the gang starts after the pod that creates it
    engines, trainers = node.kind in ("rollout", "evaluate", "fused"), node.kind in ("update", "fused")
    seconds["engine"] = engines * (c.engine_warm_s if case.gpus else c.imports_s)
    seconds["trainer"] = trainers * (c.trainer_s if case.gpus else 0.0 if engines else c.imports_s)
    return seconds | _bytes(node, case)


def _bytes(node: Node, case: Case) -> dict[str, float]:
    """Return the seconds of fetching, storing and hashing. Every member of a gang fetches the weights."""
    c, read, written = case.constants, sizes.read(node, case), sizes.written(node, case)
    pulled, pushed = sum(size for _, size in read), sum(size for _, size in written)
    weights = sum(size for kind, size in read if kind == "Policy")
    in_all = pulled * node.shard.total if node.shard else pulled + weights * (case.gang(node) - 1)
    moved = pull_seconds(c, pulled, in_all, c.store_gb_s) + pull_seconds(c, pushed, pushed, c.store_gb_s)
    hashed = (
        c.hashes_pulled * pulled + c.hashes_pushed * pushed
    )  # the inner steps of a fused segment hash nothing large
    return {"bytes": moved, "hashes": hashed / 1e9 / c.hash_gb_s}


def longest(graph: Graph, seconds: Callable[[Node], float]) -> list[Node]:
    """Return the chain of nodes that ends last. Every node starts as soon as the nodes that it waits for have ended."""
    chains: dict[str, tuple[float, list[Node]]] = {}
    for node in graph.nodes:
        waits = {ref.node for ref in node.inputs.values()} | set(node.after)
        before = max((chains[name] for name in waits), key=lambda chain: chain[0], default=(0.0, []))
        chains[node.name] = (before[0] + seconds(node), [*before[1], node])
    return max(chains.values(), key=lambda chain: chain[0])[1]


def pull_seconds(constants: Constants, per_node: float, in_all: float, store_gb_s: float) -> float:
    """Return the seconds of a transfer. Every machine moves `per_node` bytes and the store `in_all` bytes, at the same time."""
    return max(per_node / constants.node_gb_s, in_all / store_gb_s) / 1e9


def fan_out(shards: int) -> int:
    """Return the pods of a rollout in shards.

    A ParallelFor has one pod, and three for each shard. A gang has one pod for each shard, and two for the task that starts it.
    """
    return 1 + 3 * shards if shards <= MOST_SHARDS else 2 + shards
