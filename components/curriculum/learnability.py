"""Learnability weights on arms: P ~ p (1 - p), where p is a moving average of the arm's solve rate.

p (1 - p) is the variance of a reward that is 0 or 1. It is largest at p = 0.5. There is no temperature. An arm that is always or
never solved gets only the floor. When all arms are like that, all get the same share. Arms that were not drawn keep their p.
Shapes: K arms, p and P [K].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import (
    Draw,
    State,
    measured,
    pack,
    require_fields,
    solve_rate,
    unpack,
)
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import LearnabilityConfig


class Learnability:
    """Weights arms by the variance of their reward."""

    def __init__(self, config: LearnabilityConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.rate = np.full(len(arms), config.prior, dtype=np.float64)
        prob.with_floor(np.full(len(arms), 1.0 / len(arms)), config.floor)

    def probabilities(self) -> prob.Vector:
        """Return P, [K]."""
        return prob.with_floor(prob.normalise(self.rate * (1.0 - self.rate)), self.config.floor)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Draw an arm per slot from P."""
        return prob.draw_arms(self.names, self.probabilities(), num, draw.generator())

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Move p towards the solve rate of the last batch."""
        seen = measured(stats)
        for i, name in enumerate(self.names):
            if name in seen:
                self.rate[i] += self.config.alpha * (solve_rate(seen[name]) - self.rate[i])

    def state_dict(self) -> State:
        """Return p per arm."""
        return {"rate": pack(self.names, self.rate)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore p. New arms start at the mean p of the others."""
        require_fields(state, ["rate"], "CurriculumState:values")
        self.rate = unpack(self.names, state["rate"], self.config.prior, "CurriculumState:values.rate")

    def metrics(self) -> dict[str, float]:
        """Return P, p (under the name q) and the entropy of P."""
        return prob.describe(self.names, self.probabilities(), self.rate)
