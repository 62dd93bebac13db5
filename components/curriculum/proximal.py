"""ProCuRL's rule on arms: P ~ exp(Q (1 - Q) / tau), where Q is a moving average of the arm's solve rate.

It is as cheap as SEC. Unlike SEC's signal, the solve rate depends neither on a format reward nor on the division of advantages by a
standard deviation. Arms that were not drawn keep their Q. Shapes: K arms, Q and P [K].
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
    from instar.components.curriculum.config import ProximalConfig


class Proximal:
    """Boltzmann weights that are largest for arms that are solved half of the time."""

    def __init__(self, config: ProximalConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.q = np.full(len(arms), config.q0, dtype=np.float64)
        prob.with_floor(np.full(len(arms), 1.0 / len(arms)), config.floor)

    def probabilities(self) -> prob.Vector:
        """Return P, [K]."""
        return prob.with_floor(prob.softmax(self.q * (1.0 - self.q), self.config.tau), self.config.floor)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Draw an arm per slot from P."""
        return prob.draw_arms(self.names, self.probabilities(), num, draw.generator())

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Move Q towards the solve rate of the last batch."""
        seen = measured(stats)
        for i, name in enumerate(self.names):
            if name in seen:
                self.q[i] += self.config.alpha * (solve_rate(seen[name]) - self.q[i])

    def state_dict(self) -> State:
        """Return Q per arm."""
        return {"q": pack(self.names, self.q)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore Q. New arms start at the mean Q of the others."""
        require_fields(state, ["q"], "CurriculumState:values")
        self.q = unpack(self.names, state["q"], self.config.q0, "CurriculumState:values.q")

    def metrics(self) -> dict[str, float]:
        """Return P, Q and the entropy of P."""
        return prob.describe(self.names, self.probabilities(), self.q)
