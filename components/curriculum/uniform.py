"""Uniform over prompts: one shuffled pass over all tasks of all arms, then the next pass.

An arm's share of the batch is its share of the tasks. With pools of equal size, all arms have the same share.

A shuffle of all tasks can be made in two parts: a shuffle of the arm labels, for example "easy hard hard easy", and a shuffle
inside each arm. This strategy keeps the position in the shuffled labels. The cursors of the arms do the rest. When pools come
or go, a new pass starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.cursor import Cursor, take
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State, require_fields
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import UniformConfig

_UNION = "\x1funion"
"""Name of the shuffle of labels. No arm has this name, because it begins with a control character."""


class Uniform:
    """Every prompt once per pass."""

    def __init__(self, config: UniformConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.sizes = np.array([arm.size for arm in arms], dtype=np.int64)
        self.cursor = Cursor()

    def probabilities(self) -> prob.Vector:
        """Return each arm's share of the tasks, [K]."""
        return prob.normalise(self.sizes.astype(np.float64))

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Return the next `num` labels of the pass. The probability is the arm's share of all tasks."""
        p, edges = self.probabilities(), np.cumsum(self.sizes)
        indices, self.cursor = take(draw.key, _UNION, int(edges[-1]), self.cursor, num)
        labels = np.searchsorted(edges, indices, side="right")
        return [(self.names[i], float(p[i])) for i in labels]

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Ignore the statistics: this strategy does not adapt."""

    def state_dict(self) -> State:
        """Return the position in the pass, and the sizes of the pools of this pass."""
        sizes = {name: int(size) for name, size in zip(self.names, self.sizes, strict=True)}
        return {
            "epoch": self.cursor.epoch,
            "position": self.cursor.position,
            "total": int(self.sizes.sum()),
            "sizes": sizes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the position. When the pools are not those of the stored pass, start a new pass."""
        require_fields(state, ["epoch", "position", "total", "sizes"], "CurriculumState:values")
        require_fields(state["sizes"], self.names, "CurriculumState:values.sizes")
        same = [state["sizes"][name] for name in self.names] == self.sizes.tolist() and state[
            "total"
        ] == self.sizes.sum()
        here = Cursor(epoch=state["epoch"], position=state["position"])
        self.cursor = here if same else Cursor(epoch=state["epoch"] + 1)

    def metrics(self) -> dict[str, float]:
        """Return P and its entropy."""
        return prob.describe(self.names, self.probabilities())
