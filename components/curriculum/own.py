"""A curriculum of the user's: a class in a file, which runs in a sandbox.

    class Easiest:
        def __init__(self, arms, share=0.5): ...          arms: [{"name", "level", "size"}, ...], then the settings
        def select(self, num, seed): ...                  -> num pairs (arm, probability that it had)
        def observe(self, stats): ...                     stats: one dict per arm, the columns of `ArmStatsRow`
        def state_dict(self): ...                         -> everything that it remembers, as JSON
        def load_state_dict(self, state): ...             raises if a part is missing or unknown
        def metrics(self): ...                            -> {"entropy": nats, "<arm>/p": probability}

Every random number has to come from `seed`. The object lives for one draw: what it remembers is its state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from instar import seeds
from instar.artifact import Code
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State, Strategy
from instar.components.sandbox.sandbox import Sandbox, open_sandbox
from instar.contract import Context
from instar.errors import ContractError, LedgerError
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import Config, OwnConfig


class Own:
    """The user's object, behind the protocol of every strategy. What it returns is checked."""

    def __init__(self, config: OwnConfig, sandbox: Sandbox, arms: Sequence[Arm]) -> None:
        self.entry, self.names = config.entry, {arm.name for arm in arms}
        known = [{"name": arm.name, "level": arm.level, "size": arm.size} for arm in arms]
        self.remote = sandbox.create(config.entry, known, **config.settings)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Return the arm of every slot with its probability, as the user's object draws them."""
        seed = seeds.seed(draw.evolution, draw.step, "curriculum", "select")
        drawn = self.remote.call("select", num, seed)
        if not isinstance(drawn, list) or len(drawn) != num:
            raise self._wrong(f"{num} pairs of an arm and its probability", drawn, "select")
        for pair in drawn:
            good = isinstance(pair, list) and len(pair) == 2 and pair[0] in self.names and _share(pair[1])
            if not good:
                raise self._wrong(f"an arm of {sorted(self.names)} and a probability in [0, 1]", pair, "select")
        return [(name, float(p)) for name, p in drawn]

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Show the user's object the statistics of the last update."""
        self.remote.call("observe", [dataclasses.asdict(row) for row in stats])

    def state_dict(self) -> State:
        """Return what the user's object remembers."""
        state = self.remote.call("state_dict")
        if not isinstance(state, dict):
            raise self._wrong("a dictionary", state, "state_dict")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the user's object remember. Whatever it raises means that the state is not complete."""
        try:
            self.remote.call("load_state_dict", dict(state))
        except ContractError as error:
            raise LedgerError(
                expected="a state that the curriculum can restore",
                found=error.found,
                where=f"{self.entry}.load_state_dict",
                action="resume from a complete curriculum state; a missing part is never filled in",
            ) from error

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the user's object."""
        metrics = self.remote.call("metrics")
        if not isinstance(metrics, dict) or not all(_number(value) for value in metrics.values()):
            raise self._wrong("a dictionary of finite numbers", metrics, "metrics")
        return {name: float(value) for name, value in metrics.items()}

    def _wrong(self, expected: str, found: Any, method: str) -> ContractError:
        return ContractError(
            expected=expected, found=repr(found)[:200], where=f"{self.entry}.{method}", action="correct the code"
        )


def builder(config: Config, code: Code | None, ctx: Context) -> Callable[[Sequence[Arm]], Strategy]:
    """Return what makes a fresh strategy over arms. A strategy of the user's comes from `code`."""
    if config.strategy != "own":
        return config.build
    assert code is not None
    sandbox = open_sandbox(code, config.sandbox, ctx.resident)
    return lambda arms: Own(config, sandbox, arms)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _share(value: Any) -> bool:
    return _number(value) and 0.0 <= value <= 1.0
