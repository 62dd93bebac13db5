"""Only the arms with the highest level, each in proportion to its size. Filtered behaviour cloning keeps the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State, require_fields
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import BestConfig


class Best:
    """A fixed choice of arms. It does not adapt and has no state. The level of an arm is the mean return of its trajectories."""

    def __init__(self, config: BestConfig, arms: Sequence[Arm]) -> None:
        self.names = [arm.name for arm in arms]
        wanted, taken = (
            config.share * sum(arm.size for arm in arms) - 1e-9,
            0,
        )  # in floats, 0.07 * 100 is a little above 7
        sizes = np.zeros(len(arms))
        for index in sorted(range(len(arms)), key=lambda i: (-arms[i].level, arms[i].name)):
            if taken < wanted:
                sizes[index] = arms[index].size
                taken += arms[index].size
        self.p = prob.normalise(sizes)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Draw an arm per slot in proportion to size."""
        return prob.draw_arms(self.names, self.p, num, draw.generator())

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Ignore the statistics: the choice is fixed."""

    def state_dict(self) -> State:
        """Return an empty state: the choice follows from the pools."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that is not empty."""
        require_fields(state, [], "CurriculumState:values")

    def metrics(self) -> dict[str, float]:
        """Return P and its entropy."""
        return prob.describe(self.names, self.p)
