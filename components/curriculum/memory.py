"""The memory of the curriculum as one JSON object, and what happens to it when arms come and go.

`state.json` holds:

- `step`: the step that wrote it. `key`: the key of its shuffles, which is the evolution that began it. `config`: its configuration.
- `values`: what the strategy remembers, for example Q of every arm.
- `arms`: for each arm the digest of its pool, its cursor, and how many slots it had in the last batch and in all batches.
- `archived`: the same for arms whose pool is gone.
- `generated`: for each kind of generated task how many slots it had in the last batch.

A field that is missing or unknown is a `LedgerError`, and so is another configuration. A new arm enters with the mean value of the
other arms. An arm whose pool is gone is archived, and when the pool returns the arm goes on from there. An arm whose pool changed
is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instar.components.curriculum.cursor import Cursor
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import State, require_fields
from instar.errors import LedgerError

_WHERE = "CurriculumState:state.json"


@dataclass(slots=True, kw_only=True)
class ArmMemory:
    """One arm: its pool, its cursor, and how many slots it had."""

    level: float
    size: int
    digest: str
    epoch: int = 0
    position: int = 0
    drawn: int = 0
    """Slots in the last batch."""
    visits: int = 0
    """Slots in all batches since the arm entered."""

    @property
    def cursor(self) -> Cursor:
        """Return the position as a `Cursor`."""
        return Cursor(epoch=self.epoch, position=self.position)

    def arm(self, name: str) -> Arm:
        """Return the arm this entry remembers."""
        return Arm(name=name, level=self.level, size=self.size, digest=self.digest)


@dataclass(slots=True, kw_only=True)
class Archived:
    """An arm whose pool is gone: its entry, and what the strategy remembers of it."""

    arm: ArmMemory
    values: dict[str, float | None]


@dataclass(slots=True, kw_only=True)
class Memory:
    """Everything that the next step needs."""

    step: int
    key: str
    config: dict[str, Any]
    values: State
    arms: dict[str, ArmMemory] = field(default_factory=dict)
    archived: dict[str, Archived] = field(default_factory=dict)
    generated: dict[str, int] = field(default_factory=dict)
    """Kind of generated task -> slots in the last batch."""

    def known(self) -> tuple[Arm, ...]:
        """Return the arms in order of their names."""
        return tuple(self.arms[name].arm(name) for name in sorted(self.arms))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of `state.json`."""
        return dataclasses.asdict(self)


def new_entry(arm: Arm) -> ArmMemory:
    """Return the entry of an arm that was never drawn."""
    return ArmMemory(level=arm.level, size=arm.size, digest=arm.digest)


def from_json(data: Any) -> Memory:
    """Return the memory that `state.json` holds. It must have exactly the fields of `Memory`."""
    if not isinstance(data, dict):
        raise LedgerError(
            expected="a JSON object",
            found=f"a value of type {type(data).__name__}",
            where=_WHERE,
            action="resume from a complete curriculum state",
        )
    require_fields(data, [f.name for f in dataclasses.fields(Memory)], _WHERE)
    archived = {}
    for name, entry in data["archived"].items():
        require_fields(entry, ["arm", "values"], f"{_WHERE}:archived.{name}")
        archived[name] = Archived(arm=_entry(entry["arm"], f"archived.{name}"), values=dict(entry["values"]))
    arms = {name: _entry(entry, f"arms.{name}") for name, entry in data["arms"].items()}
    plain = {name: data[name] for name in ("step", "key", "config", "values")}
    return Memory(**plain, arms=arms, archived=archived, generated=dict(data["generated"]))


def _entry(data: Mapping[str, Any], where: str) -> ArmMemory:
    require_fields(data, [f.name for f in dataclasses.fields(ArmMemory)], f"{_WHERE}:{where}")
    return ArmMemory(**data)


def require_continues(memory: Memory, config: dict[str, Any], step: int) -> None:
    """Raise `LedgerError` unless an earlier step with this configuration wrote the memory.

    A rollback takes the policy back, but not this memory: the curriculum is an entry of lifetime `learned` and keeps what it knows.
    """
    if not 0 <= memory.step < step:
        raise LedgerError(
            expected=f"the curriculum state of a step before {step}",
            found=f"that of step {memory.step}",
            where=f"{_WHERE}:step",
            action="pass the state that an earlier step wrote",
        )
    if memory.config != config:
        keys = sorted(k for k in {*memory.config, *config} if memory.config.get(k) != config.get(k))
        raise LedgerError(
            expected="the configuration that the state was made with",
            found=f"other values of {keys}",
            where=f"{_WHERE}:config",
            action="start a new evolution to change the curriculum",
        )


def reconcile(memory: Memory, arms: Sequence[Arm]) -> Memory:
    """Return the memory for `arms`: it adds new arms, archives missing arms, and refuses arms whose pool changed."""
    for arm in arms:
        held = memory.arms.get(arm.name) or (memory.archived[arm.name].arm if arm.name in memory.archived else None)
        if held is not None and held.digest != arm.digest:
            raise LedgerError(
                expected=f"pool {held.digest[:12]} of {held.size} tasks",
                found=f"pool {arm.digest[:12]} of {arm.size} tasks",
                where=f"{_WHERE}:arms.{arm.name}.digest",
                action="give the changed pool a new arm name, because the cursor of the old pool does not fit it",
            )
    present = {arm.name: arm for arm in arms}
    per_arm = {name: values for name, values in memory.values.items() if isinstance(values, dict)}
    archived = {name: entry for name, entry in memory.archived.items() if name not in present}
    for name in memory.arms.keys() - present.keys():
        archived[name] = Archived(arm=memory.arms[name], values={f: v[name] for f, v in per_arm.items()})
    entries, values = {}, {f: {n: v[n] for n in v if n in present} for f, v in per_arm.items()}
    for name, arm in present.items():
        back = memory.archived.get(name)
        entries[name] = memory.arms[name] if name in memory.arms else back.arm if back else new_entry(arm)
        for f in values:
            values[f].setdefault(name, back.values[f] if back else None)
    return dataclasses.replace(memory, values={**memory.values, **values}, arms=entries, archived=archived)
