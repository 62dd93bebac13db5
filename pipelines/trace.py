"""The loop traced into a graph: the same description that runs in process, called with artifacts that do not exist yet.

A segment is what one run on a cluster executes: `begin`, `iterate` (K iterations) or `finish`. Its first node, `open`, reads
the loop's state from the ledger; between iterations a `gate` decides; its last node, `advance`, commits what the stages
recorded and starts the next segment. The Kubeflow and the Argo exporter both read this graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from instar import config as configs
from instar import contract
from instar.artifact import Source
from instar.contract import Inputs, Shard, Stage
from instar.errors import ConfigError, ContractError
from instar.pipelines import evolution
from instar.pipelines.chain.pointers import handed_on, position_of
from instar.pipelines.evolution import Position
from instar.pipelines.gate import GateConfig
from instar.pipelines.recipe import Recipe

Kind: TypeAlias = Literal["begin", "iterate", "finish"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_UNROLL = 8
"""Iterations in one run."""
MAX_NODES = 50
"""Nodes in one run: a graph of about 56 outgrows the object store of Kubernetes (kubeflow/pipelines #13738)."""
MAX_FAN_OUT = 16
"""Shards as pods of the pipeline: each costs three pods. More of them run as one gang job."""
MAX_TEXT = 10_000
"""Characters of a parameter (kubeflow/pipelines #12510)."""
OPEN = "open"
"""The first task of a run: it reads the ledger."""
_REF = re.compile(r"@([a-z0-9_-]+)/([a-z0-9_]+)")


@dataclass(frozen=True)
class Ref:
    """An artifact that a node of the graph will make."""

    node: str
    port: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node. `stage` is None for the control nodes `open`, `gate` and `advance`, which are known by `kind`.

    `iteration` and `step` count from the start of the segment; `step` is None for randomness that no step keys.
    """

    name: str
    kind: str
    stage: Stage[Any, Any, Any] | None = None
    config: Any = None
    iteration: int = 0
    step: int | None = None
    shard: Shard | None = None
    inputs: dict[str, Ref] = field(default_factory=dict)
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The nodes of one segment in an order in which they can run."""

    recipe: Recipe
    kind: Kind
    unroll: int
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """Return the name of the pipeline."""
        return pipeline_name(self.recipe, self.kind)


def pipeline_name(recipe: Recipe, kind: str) -> str:
    """Return the name of the pipeline of a segment."""
    return f"instar-{recipe.name}-{recipe.scale}-{kind}".replace("_", "-")


def trace(recipe: Recipe, kind: Kind, unroll: int = 1) -> Graph:
    """Return the graph of a segment."""
    if not 1 <= unroll <= MAX_UNROLL:
        raise ConfigError(
            expected=f"1 to {MAX_UNROLL} iterations in one run",
            found=f"{unroll}",
            where="--unroll",
            action="choose the fused clock and more inner steps for longer segments",
        )
    tracer = _Tracer(unroll if kind == "iterate" else 1, handed_on(recipe, kind))
    tracer.add(Node(name=OPEN, kind=OPEN))
    if kind == "begin":
        evolution.begin(tracer, recipe)
    else:
        position = tracer.opened()
        if kind == "iterate":
            for _ in range(unroll):
                position = evolution.iterate(tracer, recipe, position)
        else:
            evolution.finish(tracer, recipe, position)
            tracer.advance()
    return Graph(recipe=recipe, kind=kind, unroll=unroll, nodes=tuple(tracer.nodes))


def config_text(node: Node) -> str:
    """Return a stage's configuration as it crosses into a container; what a cluster would change on the way is refused."""
    text = configs.dumps(node.config)
    changed = next((mark for mark in ("{{", "$(", "$$") if mark in text), "")
    if changed or len(text) > MAX_TEXT:
        raise ConfigError(
            expected=f"at most {MAX_TEXT} characters, without '{{{{', '$(' and '$$', which clusters replace",
            found=f"'{changed}'" if changed else f"{len(text)} characters",
            where=f"{node.name}.config",
            action="move it into a file and name that in the configuration",
        )
    return text


def check_size(graph: Graph) -> None:
    """Refuse a graph that Kubernetes cannot hold. The shards of one rollout are one loop."""
    nodes = sum(node.shard is None or node.shard.number == 0 for node in graph.nodes)
    if nodes > MAX_NODES:
        recipe = graph.recipe
        raise ConfigError(
            expected=f"at most {MAX_NODES} nodes in one run",
            found=f"{nodes} ({graph.unroll} iterations of {recipe.inner_steps} inner steps, clock {recipe.clock})",
            where=f"segment {graph.kind}",
            action="choose the fused clock, or fewer inner steps or iterations for one run",
        )


class _Tracer:
    """A runner that writes down what it is asked to run. `handed` declares what the first task, `open`, hands on."""

    def __init__(self, gates: int, handed: type[Any]) -> None:
        self.nodes: list[Node] = []
        self._gates, self._handed = gates, handed

    def opened(self) -> Position:
        """Return the position that the node that reads the ledger points to."""
        return position_of(self._bind(self._handed, OPEN), iteration=0)

    def sources(self) -> tuple[Source, ...]:
        """Return the sources that the node that reads the ledger points to."""
        return tuple(contract.artifacts(self._bind(self._handed, OPEN)).values())  # type: ignore[arg-type]

    def call(
        self,
        stage: Stage[Any, Any, Any],
        config: Any,
        *,
        iteration: int,
        step: int | None = None,
        shard: Shard | None = None,
        **inputs: Inputs,
    ) -> Any:
        """Add a stage node; a wrong kind of artifact is refused here."""
        given = contract.flatten(inputs)
        contract.bind(stage.ins, dict(given), where=stage.name)
        for name, artifact in given.items():
            kind = contract.ports(stage.ins)[contract.port_of(name)][0]
            if not isinstance(artifact, kind):
                raise ContractError(
                    expected=kind.__name__,
                    found=type(artifact).__name__,
                    where=f"{stage.name}.{name}",
                    action="fix the wiring",
                )
        part = shard if shard and shard.total > 1 else None
        node = Node(
            name=self._unique(stage.name),
            kind=stage.name,
            stage=stage,
            config=config,
            iteration=iteration,
            step=step,
            shard=part,
            inputs={name: _ref(artifact.digest) for name, artifact in given.items()},
            after=() if given or not self.nodes else (self.nodes[0].name,),
        )
        return self._bind(stage.outs, self.add(node).name, getattr(config, "writes", ()))

    def gate(self, config: GateConfig, candidate: Position, before: Position | None) -> Position:
        """Add the node that decides: `gate` between iterations, `advance` at the end of the segment."""
        del config, before
        self._gates -= 1
        if not self._gates:
            self.advance()
            return candidate
        node = Node(name=self._unique("gate"), kind="gate", iteration=candidate.iteration, after=self._leaves())
        return position_of(self._bind(self._handed, self.add(node).name), iteration=candidate.iteration)

    def num_updates(self) -> int:
        """Return a number that stops nothing: whether anything was learned is checked when the ledger is written."""
        return 1

    def advance(self) -> None:
        """Add the last node."""
        iteration = max(node.iteration for node in self.nodes)
        self.add(Node(name="advance", kind="advance", iteration=iteration, after=self._leaves()))

    def add(self, node: Node) -> Node:
        """Append a node."""
        self.nodes.append(node)
        return node

    def _leaves(self) -> tuple[str, ...]:
        used = {ref.node for t in self.nodes for ref in t.inputs.values()} | {n for t in self.nodes for n in t.after}
        return tuple(node.name for node in self.nodes if node.name not in used)

    def _unique(self, name: str) -> str:
        base, taken = name.replace("_", "-"), {node.name for node in self.nodes}
        options: Callable[[int], str] = lambda n: base if n == 1 else f"{base}-{n}"  # noqa: E731
        return next(options(n) for n in range(1, len(taken) + 2) if options(n) not in taken)

    def _bind(self, declaration: type[Any], node: str, asked: Iterable[str] = ()) -> Any:
        ports = contract.requested(declaration, asked)
        made = {name: kind(Path(), f"@{node}/{name}") for name, (kind, _) in ports.items()}
        return contract.bind(declaration, made, where=node)


def _ref(digest: str) -> Ref:
    found = _REF.fullmatch(digest)
    assert found is not None, digest
    return Ref(found[1], found[2])
