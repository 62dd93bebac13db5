"""The arms of the highest level, each in proportion to its size: the data that filtered behaviour cloning keeps."""

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
    """A fixed choice: nothing is observed, nothing remembered. `level` of an arm is the mean return of its trajectories."""

    def __init__(self, config: BestConfig, arms: Sequence[Arm]) -> None:
        self.names = [arm.name for arm in arms]
        wanted, taken = config.share * sum(arm.size for arm in arms) - 1e-9, 0  # 0.07 * 100 is above 7
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
        """Nothing to learn."""

    def state_dict(self) -> State:
        """Return nothing: the choice follows from the pools."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Refuse a state that holds anything."""
        require_fields(state, [], "CurriculumState:values")

    def metrics(self) -> dict[str, float]:
        """Return P and entropy."""
        return prob.describe(self.names, self.p)
