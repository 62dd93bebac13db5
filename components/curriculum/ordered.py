"""Manual curricula: `ordered` walks the levels from easy to hard, `reverse` from hard to easy.

Each arm has an equal share of the planned steps, in the order of the levels. Arms of one level are mixed evenly over the steps that
they have together. After the planned steps the last level stays. Shapes: K arms, P [K].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State, require_fields
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import OrderedConfig, ReverseConfig


class Ordered:
    """One level after another, by a fixed plan."""

    def __init__(self, config: OrderedConfig | ReverseConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.levels = np.array([arm.level for arm in arms], dtype=np.float64)
        self.done = 0

    def probabilities(self, done: int) -> prob.Vector:
        """Return P of the step that follows `done` steps, [K]."""
        plan = np.sort(self.levels)
        if self.config.strategy == "reverse":
            plan = plan[::-1]
        level = plan[min(len(plan) - 1, done * len(plan) // self.config.steps)]
        return prob.normalise((self.levels == level).astype(np.float64))

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Draw all slots from the arms of the current level and advance the plan by one step."""
        pairs = prob.draw_arms(self.names, self.probabilities(self.done), num, draw.generator())
        self.done += 1
        return pairs

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Ignore the statistics: the plan is fixed."""

    def state_dict(self) -> State:
        """Return the number of steps selected so far."""
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the number of steps."""
        require_fields(state, ["done"], "CurriculumState:values")
        self.done = int(state["done"])

    def metrics(self) -> dict[str, float]:
        """Return P of the last selected step and its entropy. Before any selection, return those of the first step."""
        return prob.describe(self.names, self.probabilities(max(0, self.done - 1)))
