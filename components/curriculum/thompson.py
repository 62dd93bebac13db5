"""Thompson sampling for learnability. Each arm has a Beta posterior of its solve rate theta, and its score is theta (1 - theta).

In every step the evidence of all arms shrinks by the factor `decay`. So an arm that was not drawn for a while becomes uncertain and
is tried again. The probability that an arm is the best one is estimated with `draws` samples of the posteriors, and then mixed with
the floor. The slots are drawn from this estimate, so the recorded probability is the one that was used. Shapes: K arms, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, State, measured, pack, require_fields, total, unpack
from instar.rows import ArmStatsRow

if TYPE_CHECKING:
    from instar.components.curriculum.config import ThompsonConfig


class Thompson:
    """Draws each arm with the posterior probability that its theta (1 - theta) is the largest."""

    def __init__(self, config: ThompsonConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.right = np.zeros(len(arms), dtype=np.float64)
        self.wrong = np.zeros(len(arms), dtype=np.float64)
        self.p = prob.with_floor(np.full(len(arms), 1.0 / len(arms)), config.floor)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Estimate P from the posteriors, then draw an arm per slot from P."""
        generator, size = draw.generator(), (self.config.draws, len(self.names))
        theta = generator.beta(self.right + self.config.prior, self.wrong + self.config.prior, size)  # [D, K]
        wins = np.bincount((theta * (1.0 - theta)).argmax(axis=1), minlength=len(self.names))
        self.p = prob.with_floor(wins / self.config.draws, self.config.floor)
        return prob.draw_arms(self.names, self.p, num, generator)

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Shrink all evidence, then add the right and wrong answers of the last batch."""
        seen = measured(stats)
        self.right *= self.config.decay
        self.wrong *= self.config.decay
        for i, name in enumerate(self.names):
            if name in seen:
                right = total(seen[name], "sum_correct")
                self.right[i] += right
                self.wrong[i] += seen[name].num_rollouts - right

    def state_dict(self) -> State:
        """Return the evidence and the last P."""
        return {
            "right": pack(self.names, self.right),
            "wrong": pack(self.names, self.wrong),
            "p": pack(self.names, self.p),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the evidence. New arms start with the mean evidence of the others."""
        require_fields(state, ["right", "wrong", "p"], "CurriculumState:values")
        self.right = unpack(self.names, state["right"], 0.0, "CurriculumState:values.right")
        self.wrong = unpack(self.names, state["wrong"], 0.0, "CurriculumState:values.wrong")
        p = unpack(self.names, state["p"], 1.0, "CurriculumState:values.p")
        # P is scaled only if an arm entered: scaling a sum of 1 again would change its last bit.
        self.p = prob.normalise(p) if None in state["p"].values() else p

    def metrics(self) -> dict[str, float]:
        """Return the last P, its entropy, and the posterior mean of the solve rate under the name q."""
        mean = (self.right + self.config.prior) / (self.right + self.wrong + 2.0 * self.config.prior)
        return prob.describe(self.names, self.p, mean)
