"""What the loop carries: every artifact that one stage leaves for another, declared once, with its lifetime.

       brought             prepared          policy                learned
    imported, initial,   tasks, data,    policy, trainer   curriculum, stats, generated,
    scorer, code         reference                         batch, rollouts, scores

A stage gets the entries that its `Ins` name. An output that has the name of an entry takes its place. Everything else follows
from the lifetimes: what a rollback takes back, what a champion is, what a segment on a cluster hands to the next one.

To carry one more artifact, declare it here, and name it in the `Ins` and `Outs` of the stages that read and write it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args, get_type_hints

from instar.artifact import (
    ArmStats,
    Batch,
    Code,
    CurriculumState,
    ImportedTasks,
    Policy,
    Rollouts,
    Scores,
    Tasks,
    TrainerState,
)
from instar.contract import Stage, on_request

Lifetime: TypeAlias = Literal["brought", "prepared", "policy", "learned"]
"""When an entry is made, and what a rollback does with it.

- `brought`: the user's own; stored and pinned by digest when the evolution opens
- `prepared`: made before the first iteration
- `policy`: goes back at a rollback, all of them together
- `learned`: kept at a rollback
"""


@dataclass(frozen=True, kw_only=True)
class State:
    """The entries. `None` stands for one that no stage has made yet, or that the last stage to write it left empty."""

    tasks: Annotated[Tasks, "prepared"]
    data: Annotated[Rollouts, "prepared"]
    """Logged trajectories; empty for recipes that sample all they learn from."""
    policy: Annotated[Policy, "policy"]
    reference: Annotated[Policy, "prepared"]
    """What a KL term compares the policy with; see `Recipe.reference`."""
    trainer: Annotated[TrainerState | None, "policy"] = None
    curriculum: Annotated[CurriculumState | None, "learned"] = None
    stats: Annotated[ArmStats | None, "learned"] = None
    """Per arm, what the last update saw."""
    generated: Annotated[Tasks | None, "learned"] = None
    """Tasks that the evolution made itself and has not tried yet."""
    batch: Annotated[Batch | None, "learned"] = None
    rollouts: Annotated[Rollouts | None, "learned"] = None
    """With `batch` and `scores`: the last inner step. A curriculum may ask for them, for example to make tasks from failures."""
    scores: Annotated[Scores | None, "learned"] = None
    imported: Annotated[ImportedTasks | None, "brought"] = None
    """Task pools made from the user's rows."""
    initial: Annotated[Policy | None, "brought"] = None
    """The champion of another evolution, from which this one starts."""
    scorer: Annotated[Policy | None, "brought"] = None
    """A model that scores answers."""
    reward_code: Annotated[Code | None, "brought"] = None
    """The user's reward functions."""
    curriculum_code: Annotated[Code | None, "brought"] = None
    """The user's curriculum."""
    update_code: Annotated[Code | None, "brought"] = None
    """The user's advantage and filter."""

    def inputs(self, stage: Stage[Any, Any, Any], config: Any) -> dict[str, Any]:
        """Return what `stage` gets under `config`: the entries that its `Ins` name."""
        return {name: getattr(self, name) for name in reads(stage, config)}

    def after(self, stage: Stage[Any, Any, Any], config: Any, outs: Any) -> State:
        """Return the state after `stage` ran under `config`: its outputs take the place of the entries of their names."""
        return dataclasses.replace(self, **{name: getattr(outs, name) for name in writes(stage, config)})

    def champion(self) -> Champion:
        """Return the entries that make up a champion if this policy is promoted."""
        return Champion({name: getattr(self, name) for name in of_lifetime("policy")})

    def rolled_back(self, champion: Champion) -> State:
        """Return the state with the policy of `champion`, and with what was learned since."""
        return dataclasses.replace(self, **champion.entries)


@dataclass(frozen=True)
class Champion:
    """The best policy that passed the gate: the entries of lifetime `policy`, as they were then."""

    entries: Mapping[str, Any]

    @property
    def policy(self) -> Policy:
        """The policy itself."""
        return cast(Policy, self.entries["policy"])


def _lifetimes() -> dict[str, Lifetime]:
    hints = get_type_hints(State, include_extras=True)
    return {field.name: cast(Lifetime, get_args(hints[field.name])[-1]) for field in dataclasses.fields(State)}


LIFETIMES: dict[str, Lifetime] = _lifetimes()
"""Entry -> lifetime, in the order of the declaration."""


def of_lifetime(*lifetimes: Lifetime) -> list[str]:
    """Return the entries that have one of these lifetimes."""
    return [name for name, lifetime in LIFETIMES.items() if lifetime in lifetimes]


def reads(stage: Stage[Any, Any, Any], config: Any) -> list[str]:
    """Return the entries that `stage` reads under `config`. A port on request is read where `config.reads` lists it."""
    return _entries(stage.ins, getattr(config, "reads", ()))


def writes(stage: Stage[Any, Any, Any], config: Any) -> list[str]:
    """Return the entries that `stage` writes under `config`. A port on request is written where `config.writes` lists it."""
    return _entries(stage.outs, getattr(config, "writes", ()))


def _entries(declaration: type[Any], asked: Iterable[str]) -> list[str]:
    requested = on_request(declaration) - frozenset(asked)
    return [f.name for f in dataclasses.fields(declaration) if f.name in LIFETIMES and f.name not in requested]


def carried(stages: Iterable[tuple[Stage[Any, Any, Any], Any]]) -> list[str]:
    """Return what a pass over these stages reads before it writes it: what has to come from the pass before."""
    read: set[str] = set()
    written: set[str] = set()
    for stage, config in stages:
        read |= set(reads(stage, config)) - written
        written |= set(writes(stage, config))
    return [name for name in LIFETIMES if name in read]


def written(stages: Iterable[tuple[Stage[Any, Any, Any], Any]]) -> list[str]:
    """Return what these stages write. The other entries stay as they are."""
    names = {name for stage, config in stages for name in writes(stage, config)}
    return [name for name in LIFETIMES if name in names]


def declaration(name: str, doc: str, entries: Iterable[str], more: Mapping[str, Any] | None = None) -> type[Any]:
    """Return a dataclass of ports, as `Ins` and `Outs` are: these entries with their types, then `more`."""
    hints = get_type_hints(State)
    ports = {**{entry: hints[entry] for entry in entries}, **(more or {})}
    return dataclasses.make_dataclass(name, list(ports.items()), frozen=True, kw_only=True, namespace={"__doc__": doc})
