"""A curriculum strategy of a user: a class that lives in a sandbox and speaks JSON.

    class Mine:
        def __init__(self, arms): ...               # [{"name": "easy", "level": 1.0, "size": 40}, ...]
        def select(self, num, draw): ...            # [["easy", 0.4], ...]; draw is {"step": 3, "seed": 8123...}
        def observe(self, stats): ...               # [{"arm": "easy", "num_rollouts": 8, "sum_correct": 3.0, ...}, ...]
        def state_dict(self): ...                   # what it remembers
        def load_state_dict(self, state): ...       # raises ValueError if a part is missing or unknown
        def metrics(self): ...                      # {"easy/p": 0.4, ..., "entropy": 1.1}

Random numbers come from `random.Random(draw["seed"])`, so that a selection can be repeated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from instar.components.sandbox.sandbox import Sandbox

from instar import seeds
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State
from instar.errors import ContractError, LedgerError
from instar.plain import brief
from instar.rows import ArmStatsRow


class Sandboxed:
    """The strategy `entry` of a bundle. Its methods raise `ContractError` when the user's code fails."""

    def __init__(self, sandbox: Sandbox, entry: str, arms: Sequence[Arm]) -> None:
        facts = [{"name": arm.name, "level": arm.level, "size": arm.size} for arm in arms]
        self._remote, self._entry = sandbox.create(entry, facts), entry

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Return what the user's class selects."""
        seed = seeds.seed(draw.evolution, draw.step, "curriculum", "select")
        pairs = self._remote.call("select", num, {"step": draw.step, "seed": seed})
        try:
            return [(str(arm), float(probability)) for arm, probability in pairs]
        except (TypeError, ValueError) as error:
            raise self._wrong("select", "a list of pairs: an arm and its probability", pairs) from error

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Pass the statistics on."""
        self._remote.call("observe", [dataclasses.asdict(row) for row in stats])

    def state_dict(self) -> State:
        """Return what the user's class remembers."""
        state = self._remote.call("state_dict")
        if not isinstance(state, dict):
            raise self._wrong("state_dict", "a dict", state)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state. Whatever the user's class raises means that the state is not complete."""
        try:
            self._remote.call("load_state_dict", dict(state))
        except ContractError as error:
            raise LedgerError(
                expected="a state that the strategy can restore",
                found=error.found,
                where=f"{self._entry}.load_state_dict",
                action="resume from a complete curriculum state; a missing part is never filled in",
            ) from error

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the user's class."""
        metrics = self._remote.call("metrics")
        try:
            return {str(name): float(value) for name, value in metrics.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._wrong("metrics", "a dict of numbers", metrics) from error

    def _wrong(self, method: str, expected: str, value: Any) -> ContractError:
        where, action = f"{self._entry}.{method}", "correct what the method returns"
        return ContractError(expected=expected, found=brief(value), where=where, action=action)
