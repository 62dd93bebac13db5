"""The stage contract: declared once, used as a call, as a command line, as a KFP component and as documentation.

A stage module holds `Ins`, `Outs`, `Config` (frozen dataclasses), one function `(ins, outs, config, ctx) -> metrics` and
`STAGE = Stage(...)`. The function reads artifacts from `ins`, writes files into the folders of `outs` and returns metrics.
It never names a store, a ledger or a runner.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from instar import seeds
from instar.artifact import Artifact
from instar.errors import ContractError
from instar.resident import Resident

I = TypeVar("I")  # noqa: E741  (Ins)
O = TypeVar("O")  # noqa: E741  (Outs)
C = TypeVar("C")  # Config
Metrics = dict[str, float]
Inputs: TypeAlias = Artifact | tuple[Artifact, ...] | None
PERF = "perf/"  # metrics with this prefix measure the machine; they stay outside of every digest
NOTE = "on/"  # what an entry of the ledger was computed with (`pipelines.versions`); outside of every digest, too


class Shard(NamedTuple):
    """One of `total` parts of a stage's work, counted from 0."""

    number: int
    total: int


WHOLE = Shard(0, 1)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a stage stands: names that key its randomness, a scratch folder, and what the process keeps resident.

    `step` counts inner steps over the whole evolution, under both clocks; it is the `iteration` of `seed`.
    `heartbeat(unit, metrics)` says that a unit of work is done; runners use it for progress and to notice a stall.
    `durable` is false where no output outlives the process: then weights may stay resident instead of being written.
    """

    evolution: str
    step: int
    stage: str
    scratch: Path
    shard: Shard = WHOLE
    resident: Resident = field(default_factory=Resident, repr=False)
    heartbeat: Callable[[str, Mapping[str, float]], None] = field(default=lambda unit, metrics: None, repr=False)
    durable: bool = True

    def seed(self, item: int | str = 0) -> int:
        """Return the seed of one item of this stage."""
        return seeds.seed(self.evolution, self.step, self.stage, item)


@dataclass(frozen=True)
class Stage(Generic[I, O, C]):
    """A typed stage. `version` enters the memo key: raise it when the same inputs must give a new result."""

    name: str
    ins: type[I]
    outs: type[O]
    config: Any
    run: Callable[[I, O, C, Context], Metrics]
    version: int = 1

    def __call__(self, ins: I, outs: O, config: C, ctx: Context) -> Metrics:
        """Run in process: check the inputs, run, check that every output is complete and every metric finite."""
        for name, artifact in artifacts(ins).items():
            artifact.require()
            kind = ports(self.ins)[port_of(name)][0]
            if not isinstance(artifact, kind):
                raise self._wiring(name, kind.__name__, type(artifact).__name__)
        for artifact in artifacts(outs).values():
            artifact.path.mkdir(parents=True, exist_ok=True)
        metrics = self.run(ins, outs, config, ctx)
        for name, artifact in artifacts(outs).items():
            if any(artifact.path.iterdir()):
                artifact.require()
            elif ports(self.outs)[name][1]:
                raise self._wiring(name, "files", "an empty folder")
        bad = {k: v for k, v in metrics.items() if not isinstance(v, int | float) or not math.isfinite(v)}
        if bad:
            raise ContractError(
                expected="finite metrics",
                found=f"{bad}",
                where=f"{self.name}.metrics",
                action="leave out what is undefined",
            )
        return metrics

    def _wiring(self, name: str, expected: str, found: str) -> ContractError:
        return ContractError(expected=expected, found=found, where=f"{self.name}.{name}", action="fix the wiring")


def ports(declaration: type[Any]) -> dict[str, tuple[type[Artifact], bool]]:
    """Return name -> (artifact class, required) of an `Ins` or `Outs` dataclass.

    `X | None` is an optional port. An optional output that stays empty means none. `tuple[X, ...]` is a port that takes several
    artifacts (see `variadic`): at least one, or also none where its default is `()`.
    """
    out: dict[str, tuple[type[Artifact], bool]] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(declaration)}
    for name, hint in get_type_hints(declaration).items():
        if get_origin(hint) is tuple:
            out[name] = (get_args(hint)[0], defaults[name] != ())
            continue
        inner = [a for a in get_args(hint) if a is not type(None)] if _is_union(hint) else [hint]
        out[name] = (inner[0], not _is_union(hint))
    return out


def variadic(declaration: type[Any]) -> frozenset[str]:
    """Return the ports that take several artifacts. Their members are named `port.0`, `port.1`, ..."""
    return frozenset(name for name, hint in get_type_hints(declaration).items() if get_origin(hint) is tuple)


ON_REQUEST = "on request"
"""Marks an optional port, `Annotated[X | None, ON_REQUEST]` or `Annotated[tuple[X, ...], ON_REQUEST]`, that is there only for
configurations that list it in their `reads` (an input) or `writes` (an output). A result then does not depend on an input that
its strategy never looks at."""


def on_request(declaration: type[Any]) -> frozenset[str]:
    """Return the ports that are marked `ON_REQUEST`."""
    hints = get_type_hints(declaration, include_extras=True)
    return frozenset(name for name, hint in hints.items() if ON_REQUEST in getattr(hint, "__metadata__", ()))


def requested(declaration: type[Any], asked: Iterable[str]) -> dict[str, tuple[type[Artifact], bool]]:
    """Return the ports that are there for a configuration that asks for `asked`."""
    absent = on_request(declaration) - frozenset(asked)
    return {name: port for name, port in ports(declaration).items() if name not in absent}


def port_of(name: str) -> str:
    """Return the port of a member name: `parts` of `parts.0`."""
    return name.partition(".")[0]


def flat_name(name: str) -> str:
    """Return a member name without a dot, where a dot is no part of a name: `sources_0` of `sources.0`."""
    return name.replace(".", "_")


def member_name(declaration: type[Any], name: str) -> str:
    """Return the member whose flat name is `name`: `sources.0` of `sources_0`. Other names stay as they are."""
    port, _, number = name.rpartition("_")
    return f"{port}.{number}" if port in variadic(declaration) and number.isdigit() else name


def flatten(inputs: Mapping[str, Inputs]) -> dict[str, Artifact]:
    """Return the artifacts that are present, by member name."""
    out: dict[str, Artifact] = {}
    for name, value in inputs.items():
        if isinstance(value, tuple):
            out |= {f"{name}.{i}": artifact for i, artifact in enumerate(value)}
        elif value is not None:
            out[name] = value
    return out


def artifacts(bundle: Any) -> dict[str, Artifact]:
    """Return the artifacts that are present in an `Ins` or `Outs` value, by member name."""
    return flatten({f.name: getattr(bundle, f.name) for f in dataclasses.fields(bundle)})


def bind(declaration: type[Any], values: Mapping[str, Artifact | None], where: str) -> Any:
    """Build an `Ins` or `Outs` from artifacts by member name; a missing required port is a `ContractError`."""
    declared, many = ports(declaration), variadic(declaration)
    present = {name: value for name, value in values.items() if value is not None}
    missing = [n for n, (_, required) in declared.items() if required and n not in map(port_of, present)]
    unknown = sorted(n for n in present if port_of(n) not in declared or (port_of(n) in many) != ("." in n))
    if missing or unknown:
        raise ContractError(
            expected=f"ports {sorted(declared)}",
            found=f"missing {missing}, unknown {unknown}",
            where=where,
            action="connect every required port and no other",
        )
    members = {port: sorted((n for n in present if port_of(n) == port), key=_member) for port in many}
    tuples = {port: tuple(present[name] for name in names) for port, names in members.items()}
    return declaration(**{name: tuples.get(name, present.get(name)) for name in declared})


def _member(name: str) -> int:
    return int(name.partition(".")[2])


def _is_union(hint: Any) -> bool:
    import types

    return get_origin(hint) in (Union, types.UnionType)
