"""SEC, arXiv 2505.14970 section 3: a bandit over arms. The value of an arm is the mean absolute advantage of its rollouts.

    P[c] = exp(Q[c] / tau) / sum_k exp(Q[k] / tau)           every slot draws its arm from P, independently
    r[c] = mean over the arm's rollouts of |A|               before any filter, so groups without variance count as 0
    Q[c] = (1 - alpha) Q[c] + alpha r[c]                     arms that were not drawn: r = 0 (`decay`), or Q stays (`hold`)

The paper calls the last line TD(0). A bandit has no next state, so the line is a moving average. The mean is over rollouts, neither
over prompts nor over tokens. `config.SEC_MODES` lists the four settings in which the modes `faithful` and `fixed` differ. When an
arm was drawn but all of its verdicts failed, its Q stays as it is in both modes: a failed verifier is not the number 0.
Shapes: K arms, Q and P [K].
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
    from instar.components.curriculum.config import SecConfig

SMALLEST_Q = 0.01
"""The smallest Q that `normalized_q` uses, as in the published code."""


class Sec:
    """The bandit: it keeps Q of every arm and draws arms by it."""

    def __init__(self, config: SecConfig, arms: Sequence[Arm]) -> None:
        self.config, self.names = config, [arm.name for arm in arms]
        self.switches = config.switches
        self.q = np.full(len(arms), self.switches.q0, dtype=np.float64)
        self.last_reward: dict[str, float | None] = dict.fromkeys(self.names)
        prob.with_floor(np.full(len(arms), 1.0 / len(arms)), self.switches.floor)

    def probabilities(self) -> prob.Vector:
        """Return P, [K]."""
        if self.config.method == "boltzmann":
            p = prob.softmax(self.q, self.config.tau)
        elif self.config.method == "normalized_q":
            p = prob.normalise(np.maximum(self.q, SMALLEST_Q))
        else:
            best = prob.normalise((self.q == self.q.max()).astype(np.float64))
            p = (1.0 - self.config.epsilon) * best + self.config.epsilon / len(self.names)
        return prob.with_floor(p, self.switches.floor)

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        """Draw an arm per slot from P."""
        return prob.draw_arms(self.names, self.probabilities(), num, draw.generator())

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        """Move Q towards the signal of the last batch."""
        seen, drawn = measured(stats), {row.arm for row in stats if row.num_prompts > 0}
        for i, name in enumerate(self.names):
            if name in seen:
                signal = self._signal(seen[name])
                if signal is not None:
                    self.q[i] += self.config.alpha * (signal - self.q[i])
            elif name not in drawn and self.switches.absent == "decay":
                self.q[i] *= 1.0 - self.config.alpha

    def _signal(self, row: ArmStatsRow) -> float | None:
        """Return the signal r of one arm. `progress` returns None when the arm is seen for the first time."""
        if self.config.objective == "advantage":
            return total(row, self.config.signal_column) / row.num_rollouts
        before, now = self.last_reward[row.arm], row.sum_reward / row.num_rollouts
        self.last_reward[row.arm] = now
        return None if before is None else now - before

    def state_dict(self) -> State:
        """Return Q and the last mean reward per arm."""
        return {"q": pack(self.names, self.q), "last_reward": dict(self.last_reward)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore Q and the last mean rewards. New arms start at the mean Q of the others."""
        require_fields(state, ["q", "last_reward"], "CurriculumState:values")
        require_fields(state["last_reward"], self.names, "CurriculumState:values.last_reward")
        self.q = unpack(self.names, state["q"], self.switches.q0, "CurriculumState:values.q")
        self.last_reward = {name: state["last_reward"][name] for name in self.names}

    def metrics(self) -> dict[str, float]:
        """Return P, Q and the entropy of P."""
        return prob.describe(self.names, self.probabilities(), self.q)
