"""The curriculum strategies by name, and how one is built from its configuration."""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.curriculum.best import Best
from instar.components.curriculum.config import Config, SecConfig
from instar.components.curriculum.learnability import Learnability
from instar.components.curriculum.ordered import Ordered
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Strategy
from instar.components.curriculum.proximal import Proximal
from instar.components.curriculum.sec import SIGNALS, Sec
from instar.components.curriculum.thompson import Thompson
from instar.components.curriculum.uniform import Uniform

STRATEGIES: dict[str, type[Strategy]] = {
    "uniform": Uniform,  # one shuffled pass over all prompts
    "best": Best,  # the arms of the highest level alone
    "ordered": Ordered,  # easy to hard, by plan
    "reverse": Ordered,  # hard to easy, by plan
    "sec": Sec,  # bandit on the mean absolute advantage
    "thompson": Thompson,  # Beta posterior, score p (1 - p)
    "proximal": Proximal,  # Boltzmann on p (1 - p)
    "learnability": Learnability,  # weights p (1 - p)
}


def build(config: Config, arms: Sequence[Arm]) -> Strategy:
    """Return a fresh strategy over `arms`."""
    return STRATEGIES[config.strategy](config, arms)


def required_columns(config: Config) -> frozenset[str]:
    """Return the `ArmStatsRow` columns a configuration needs: those of its class, and for `sec` its signal."""
    needs = STRATEGIES[config.strategy].requires
    if isinstance(config, SecConfig):
        needs |= {SIGNALS[config.switches.signal] if config.objective == "advantage" else "sum_reward"}
    return needs
