"""What every curriculum strategy is: a small class that selects arms, learns from statistics, and can be saved exactly."""

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
"""State of a strategy, ready for JSON. A field that is a mapping holds one number per arm, for example
`{"easy": 0.4, "hard": null}`. null marks an arm that just entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The randomness of one selection: new random numbers for this step, and shuffles that stay the same from step to step."""

    evolution: str
    step: int
    key: str

    def generator(self) -> np.random.Generator:
        """Return the generator of this step."""
        return seeds.rng(self.evolution, self.step, "curriculum", "select")

    def permutation(self, name: str, epoch: int, size: int) -> NDArray[np.int64]:
        """Return shuffle `epoch` of `name`, [size]. It is the same at every step."""
        return permutation(self.key, name, epoch, size)


class Strategy(Protocol):
    """A curriculum over arms. Its configuration builds it, and names the columns of `ArmStatsRow` that `observe` reads."""

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Return `num` pairs: an arm, and the probability that the arm had for this slot."""
        ...

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Learn from the statistics of the last update. An arm without a valid rollout says nothing about its difficulty."""
        ...

    def state_dict(self) -> State:
        """Return everything that the strategy remembers, ready for JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what the strategy remembers. A missing or unknown field or arm is a `LedgerError`."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return `entropy` in nats, `<arm>/p`, and `<arm>/q` if the strategy has values. Runners prefix the name of the stage."""
        ...


def measured(stats: Sequence[ArmStatsRow]) -> dict[str, ArmStatsRow]:
    """Return the rows with at least one valid rollout, by arm. An arm without one has no solve rate, which is not a rate of 0."""
    return {row.arm: row for row in stats if row.num_rollouts > 0}


def solve_rate(row: ArmStatsRow) -> float:
    """Return the share of correct answers among valid rollouts, in [0, 1]."""
    return total(row, "sum_correct") / row.num_rollouts


def total(row: ArmStatsRow, column: str) -> float:
    """Return a sum of the row. An update that does not provide the column leaves it empty. That is a `ContractError`, never 0."""
    value = getattr(row, column)
    if value is None:
        raise ContractError(
            expected=f"a number in column {column}",
            found="an empty cell",
            where=f"ArmStats:{column} of arm {row.arm}",
            action="choose an update that fills this column, or a curriculum that does not read it",
        )
    return float(value)


def require_fields(state: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    """Raise `LedgerError` unless `state` has exactly these fields."""
    missing, unknown = sorted(set(fields) - set(state)), sorted(set(state) - set(fields))
    if missing or unknown:
        raise LedgerError(
            expected=f"exactly the fields {sorted(fields)}",
            found=f"missing fields {missing}, unknown fields {unknown}",
            where=where,
            action="resume from a complete curriculum state; a missing part is never filled in",
        )


def pack(names: Sequence[str], values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return the numbers as a mapping from arm to number."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def unpack(names: Sequence[str], values: Mapping[str, float | None], initial: float, where: str) -> NDArray[np.float64]:
    """Return the numbers in the order of `names`, [K]. An arm that just entered has null, and gets the mean of the others."""
    require_fields(values, names, where)
    known = [v for v in values.values() if v is not None]
    entering = sum(known) / len(known) if known else initial
    return np.array([entering if (v := values[n]) is None else v for n in names], dtype=np.float64)
