"""Traces the loop into a graph. The description that runs in process is called here with artifacts that do not exist yet.

One run on a cluster executes one segment of the loop. A segment is of the kind `begin`, `iterate` (K iterations) or `finish`.

    open -> stages -> [gate -> stages ...] -> advance

`open` reads the state of the loop from the ledger. A `gate` between two iterations decides whether the next one happens. `advance`
writes to the ledger what the stages recorded, and starts the next segment. The Kubeflow and the Argo exporter both read this graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from instar import config as configs
from instar import contract
from instar.artifact import Artifact, Source
from instar.contract import Inputs, Shard, Stage
from instar.errors import ConfigError, ContractError
from instar.pipelines import evolution
from instar.pipelines.chain.pointers import handed_on, position_of
from instar.pipelines.evolution import Position
from instar.pipelines.gate import GateConfig
from instar.pipelines.recipe import Recipe
from instar.state import LIFETIMES

Kind: TypeAlias = Literal["begin", "iterate", "finish"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_UNROLL = 8
"""Most iterations in one run."""
MAX_NODES = 50
"""Most nodes in one run. A graph of about 56 nodes is too large for the object store of Kubernetes (kubeflow/pipelines #13738)."""
MAX_FAN_OUT = 16
"""Most shards that run as nodes of the pipeline; each costs three pods. More shards run as one gang job."""
MAX_TEXT = 10_000
"""Most characters of a parameter (kubeflow/pipelines #12510)."""
OPEN = "open"
"""The first node of a run: it reads the ledger."""
_REF = re.compile(r"@([a-z0-9_-]+)/([a-z0-9_]+)")


@dataclass(frozen=True)
class Ref:
    """A reference to an artifact that a node of the graph will make."""

    node: str
    port: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node. For the control nodes `open`, `gate` and `advance`, `stage` is None and `kind` says which one it is.

    `iteration` and `step` count from the start of the segment. `step` is None where the random numbers do not depend on a step.
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
    """Return the configuration of a stage as the text that goes into its container.

    Raises `ConfigError` for text that a cluster would change on the way, for example `{{`.
    """
    text = configs.dumps(node.config)
    changed = next((mark for mark in ("{{", "$(", "$$") if mark in text), "")
    if changed or len(text) > MAX_TEXT:
        raise ConfigError(
            expected=f"at most {MAX_TEXT} characters, without '{{{{', '$(' and '$$', which clusters replace",
            found=f"'{changed}'" if changed else f"{len(text)} characters",
            where=f"{node.name}.config",
            action="move it into a file and name the file in the configuration",
        )
    return text


def check_size(graph: Graph) -> None:
    """Raise `ConfigError` for a graph that Kubernetes cannot hold. The shards of one rollout count as one node, a loop."""
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
        """Return the position that the outputs of the node `open` point to."""
        return position_of(self._bind(self._handed, OPEN), iteration=0)

    def sources(self) -> tuple[Source, ...]:
        """Return the sources that the outputs of the node `open` point to."""
        handed = contract.artifacts(self._bind(self._handed, OPEN)).values()
        return tuple(artifact for artifact in handed if isinstance(artifact, Source))

    def brought(self) -> dict[str, Artifact]:
        """Return what the user brought, as the outputs of the node `open` point to it."""
        return {n: a for n, a in contract.artifacts(self._bind(self._handed, OPEN)).items() if n in LIFETIMES}

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
        """Add a stage node. Raises `ContractError` for an input of the wrong artifact class."""
        artifacts = contract.flatten(inputs)
        contract.bind(stage.ins, dict(artifacts), where=stage.name)
        for name, artifact in artifacts.items():
            kind = contract.ports(stage.ins)[contract.port_of(name)][0]
            if not isinstance(artifact, kind):
                raise ContractError(
                    expected=f"an artifact of class {kind.__name__}",
                    found=type(artifact).__name__,
                    where=f"{stage.name}.{name}",
                    action="pass an artifact of this class to the input",
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
            inputs={name: _ref(artifact.digest) for name, artifact in artifacts.items()},
            after=() if artifacts or not self.nodes else (self.nodes[0].name,),
        )
        return self._bind(stage.outs, self.add(node).name, getattr(config, "writes", ()))

    def gate(self, config: GateConfig, candidate: Position, before: Position | None) -> Position:
        """Add the node that decides: `gate` between two iterations, `advance` at the end of the segment."""
        del config, before
        self._gates -= 1
        if not self._gates:
            self.advance()
            return candidate
        node = Node(name=self._unique("gate"), kind="gate", iteration=candidate.iteration, after=self._leaves())
        return position_of(self._bind(self._handed, self.add(node).name), iteration=candidate.iteration)

    def num_updates(self) -> int:
        """Return 1, so that the loop goes on. Whether anything was learned is checked when the ledger is written."""
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
        promised = {name: kind(None, f"@{node}/{name}") for name, (kind, _) in ports.items()}
        return contract.bind(declaration, promised, where=node)


def _ref(digest: str) -> Ref:
    match = _REF.fullmatch(digest)
    assert match is not None, digest
    return Ref(match[1], match[2])
