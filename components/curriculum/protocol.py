"""What every curriculum strategy is: a small class over arms that selects, observes, and can be saved exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from instar import seeds
from instar.components.curriculum.cursor import permutation
from instar.errors import ContractError, LedgerError
from instar.rows import ArmStatsRow

State = dict[str, Any]
"""JSON-ready state. A field that is a mapping holds one number per arm; null marks an arm that just entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The randomness of one selection: fresh numbers for this step, and shuffles that outlive it."""

    evolution: str
    step: int
    key: str

    def generator(self) -> np.random.Generator:
        """Return the generator of this step."""
        return seeds.rng(self.evolution, self.step, "curriculum", "select")

    def permutation(self, name: str, epoch: int, size: int) -> NDArray[np.int64]:
        """Return shuffle `epoch` of `name`, the same at every step, [size]."""
        return permutation(self.key, name, epoch, size)


class Strategy(Protocol):
    """A curriculum over arms, built by its configuration, which names the columns of `ArmStatsRow` that `observe` reads."""

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Return `num` pairs (arm, probability that the arm had for this slot)."""
        ...

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Learn from what the last update saw. Arms without a valid rollout carry no information."""
        ...

    def state_dict(self) -> State:
        """Return the whole memory, JSON-ready."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory; a missing or unknown field or arm is a `LedgerError`."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return `<arm>/p`, `<arm>/q` where there is a value, and `entropy` (nats); runners prefix the stage name."""
        ...


def measured(stats: Sequence[ArmStatsRow]) -> dict[str, ArmStatsRow]:
    """Return the rows that hold at least one valid rollout, by arm. Without one there is no rate: not even 0."""
    return {row.arm: row for row in stats if row.num_rollouts > 0}


def solve_rate(row: ArmStatsRow) -> float:
    """Return the share of correct answers among valid rollouts, in [0, 1]."""
    return total(row, "sum_correct") / row.num_rollouts


def total(row: ArmStatsRow, column: str) -> float:
    """Return a sum of the row. An update that does not provide it left it empty: `ContractError`, never 0."""
    value = getattr(row, column)
    if value is None:
        raise ContractError(
            expected=f"a number in column {column}",
            found="empty",
            where=f"ArmStats:{column} of arm {row.arm}",
            action="take an update that provides this column, or a curriculum that does not read it",
        )
    return float(value)


def require_fields(state: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    """Raise `LedgerError` unless `state` has exactly these fields."""
    missing, unknown = sorted(set(fields) - set(state)), sorted(set(state) - set(fields))
    if missing or unknown:
        raise LedgerError(
            expected=f"fields {sorted(fields)}",
            found=f"missing {missing}, unknown {unknown}",
            where=where,
            action="resume from a complete curriculum state; a missing part is never filled in",
        )


def pack(names: Sequence[str], values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return one number per arm."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def unpack(names: Sequence[str], values: Mapping[str, float | None], initial: float, where: str) -> NDArray[np.float64]:
    """Return the numbers in the order of `names`, [K]. An arm that just entered (null) gets the mean of the others."""
    require_fields(values, names, where)
    known = [v for v in values.values() if v is not None]
    entering = sum(known) / len(known) if known else initial
    return np.array([entering if (v := values[n]) is None else v for n in names], dtype=np.float64)
