"""Configuration of the curriculum stage: one frozen dataclass per strategy, and their union `Config`.

`strategy` picks the alternative. Fields shared by all: how many prompts an update trains on, how many rollouts each
gets, and how many more prompts to draw when a filter behind the rollouts will drop some.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from instar.components.generated.templates import KINDS
from instar.config import out_of_range

Signal: TypeAlias = Literal[
    "abs_advantage", "abs_advantage_correct", "abs_centred", "abs_centred_correct", "loss_change"
]
Absent: TypeAlias = Literal["decay", "hold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedDraw:
    """How tasks that the evolution made itself are drawn beside or between the others, the oldest first."""

    prompts: int
    """Most generated prompts per step; they come on top of the other prompts of a batch."""
    mode: Literal["mixed", "alternate"] = "mixed"
    """`mixed` appends them to every batch. `alternate` gives them a batch of their own, in the step after one without them and
    once that many wait: two updates per round, as published."""
    shares: dict[str, float] = field(default_factory=dict)
    """Kind -> share of the generated prompts; what a kind cannot fill goes to the oldest of any kind. Empty: by age alone."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "generated.prompts", ">= 1", self.prompts)
        unknown = sorted(set(self.shares) - set(KINDS))
        require(not unknown, "generated.shares", f"kinds of {', '.join(KINDS)}", unknown)
        good = all(0.0 <= share <= 1.0 for share in self.shares.values()) and sum(self.shares.values()) <= 1.0 + 1e-9
        require(good, "generated.shares", "shares that add up to at most 1", self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Fields of every strategy."""

    prompts: int
    """Prompts one update trains on (B)."""
    group_size: int
    """Rollouts per prompt (n)."""
    oversample: float = 1.0
    """Draw ceil(prompts * oversample) slots; the update keeps the first `prompts` informative groups."""
    generated: GeneratedDraw | None = None
    """Also draw tasks that the evolution made itself."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "prompts", ">= 1", self.prompts)
        require(self.group_size >= 1, "group_size", ">= 1", self.group_size)
        require(self.oversample >= 1.0 and math.isfinite(self.oversample), "oversample", ">= 1", self.oversample)

    @property
    def slots(self) -> int:
        """Prompt slots to draw per step. The small term keeps 100 * 1.1 at 110."""
        return math.ceil(self.prompts * self.oversample - 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformConfig(Base):
    """Every training prompt once per pass, in random order. The control of every comparison."""

    strategy: Literal["uniform"] = "uniform"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedConfig(Base):
    """Easy to hard by level; each arm gets an equal share of the planned steps."""

    strategy: Literal["ordered"] = "ordered"
    steps: int
    """Planned inner steps of the evolution; later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseConfig(Base):
    """Hard to easy by level; otherwise as `ordered`."""

    strategy: Literal["reverse"] = "reverse"
    steps: int
    """Planned inner steps of the evolution; later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What the two modes of `sec` set. Nothing else differs between them."""

    signal: Signal
    """Which mean over an arm's rollouts moves Q: of absolute advantages, or the fall of the loss over the update."""
    absent: Absent
    """What happens to the Q of an arm that was not in the batch: `decay` multiplies it by (1 - alpha)."""
    q0: float
    """Q before the first observation."""
    floor: float
    """Smallest probability of an arm."""


SEC_MODES: dict[str, Switches] = {
    # The published algorithm (SEC section 3 and its code).
    "faithful": Switches(signal="abs_advantage", absent="decay", q0=0.0, floor=0.0),
    # Correctness alone moves Q, so format rewards cannot fake learnability; unseen arms keep an optimistic value.
    "fixed": Switches(signal="abs_advantage_correct", absent="hold", q0=1.0, floor=0.01),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecConfig(Base):
    """Self-Evolving Curriculum, arXiv 2505.14970: a Boltzmann bandit on the mean absolute advantage per arm."""

    strategy: Literal["sec"] = "sec"
    mode: Literal["faithful", "fixed"] = "faithful"
    """Sets signal, absent, q0 and floor (`SEC_MODES`); a switch given below wins over the mode."""
    alpha: float = 0.5
    """Step size of Q."""
    tau: float = 0.2
    """Temperature; must match the scale of the signal, which is [0, 0.9] for groups of 8."""
    objective: Literal["advantage", "progress"] = "advantage"
    """`progress` moves Q by the change of the arm's mean reward since it was last seen; `signal` is then unused."""
    method: Literal["boltzmann", "normalized_q", "greedy"] = "boltzmann"
    """`normalized_q`: P ~ max(Q, 0.01). `greedy`: the best arm, and `epsilon` spread over all arms."""
    epsilon: float = 0.1
    """Share of uniform draws of `greedy`."""
    signal: Signal | None = None
    """Overrides the mode."""
    absent: Absent | None = None
    """Overrides the mode."""
    q0: float | None = None
    """Overrides the mode."""
    floor: float | None = None
    """Overrides the mode."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.alpha <= 1.0, "alpha", "in (0, 1]", self.alpha)
        require(self.tau > 0.0, "tau", "> 0", self.tau)
        require(0.0 <= self.epsilon <= 1.0, "epsilon", "in [0, 1]", self.epsilon)
        require(self.mode in SEC_MODES, "mode", " or ".join(SEC_MODES), self.mode)
        grouped = self.objective == "advantage" and self.switches.signal != "loss_change"
        alone = grouped and self.group_size < 2
        require(not alone, "group_size", ">= 2: a single rollout has advantage 0", self.group_size)
        require_floor(self.switches.floor)

    @property
    def switches(self) -> Switches:
        """The four switches after single overrides."""
        mode = SEC_MODES[self.mode]
        return Switches(
            signal=mode.signal if self.signal is None else self.signal,
            absent=mode.absent if self.absent is None else self.absent,
            q0=mode.q0 if self.q0 is None else self.q0,
            floor=mode.floor if self.floor is None else self.floor,
        )

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found = {} if self.method == "boltzmann" else {"tau": "curriculum.method=boltzmann"}
        if self.method != "greedy":
            found["epsilon"] = "curriculum.method=greedy"
        return found if self.objective == "advantage" else {**found, "signal": "curriculum.objective=advantage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThompsonConfig(Base):
    """Beta posterior of the solve rate per arm with decay; arms are scored by theta (1 - theta)."""

    strategy: Literal["thompson"] = "thompson"
    decay: float = 0.9
    """Factor on the evidence of every arm per step; 1 never forgets."""
    prior: float = 1.0
    """Pseudo-counts of right and of wrong answers."""
    floor: float = 0.01
    """Smallest probability of an arm."""
    draws: int = 1024
    """Posterior draws that estimate the probability of each arm being best."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.decay <= 1.0, "decay", "in (0, 1]", self.decay)
        require(self.prior > 0.0, "prior", "> 0", self.prior)
        require(self.draws >= 1, "draws", ">= 1", self.draws)
        require_floor(self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalConfig(Base):
    """ProCuRL: Q is a moving average of the solve rate and P ~ exp(Q (1 - Q) / tau)."""

    strategy: Literal["proximal"] = "proximal"
    alpha: float = 0.5
    """Step size of the moving average."""
    tau: float = 0.05
    """Temperature; Q (1 - Q) lies in [0, 0.25], so 0.05 allows a ratio of e^5 between two arms."""
    q0: float = 0.5
    """Solve rate before the first observation."""
    floor: float = 0.01
    """Smallest probability of an arm."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.alpha <= 1.0, "alpha", "in (0, 1]", self.alpha)
        require(self.tau > 0.0, "tau", "> 0", self.tau)
        require(0.0 <= self.q0 <= 1.0, "q0", "in [0, 1]", self.q0)
        require_floor(self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnabilityConfig(Base):
    """P ~ p (1 - p) with p a moving average of the solve rate."""

    strategy: Literal["learnability"] = "learnability"
    alpha: float = 0.5
    """Step size of the moving average."""
    prior: float = 0.5
    """Solve rate before the first observation."""
    floor: float = 0.01
    """Smallest probability of an arm."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.alpha <= 1.0, "alpha", "in (0, 1]", self.alpha)
        require(0.0 < self.prior < 1.0, "prior", "in (0, 1)", self.prior)
        require_floor(self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestConfig(Base):
    """Only the arms of the highest level, as many as make up a share of the tasks: filtered behaviour cloning's choice."""

    strategy: Literal["best"] = "best"
    share: float = 0.25
    """Share of all training tasks; arms are taken whole, the best first, until it is reached."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.share <= 1.0, "share", "in (0, 1]", self.share)


Config: TypeAlias = (
    UniformConfig
    | BestConfig
    | OrderedConfig
    | ReverseConfig
    | SecConfig
    | ThompsonConfig
    | ProximalConfig
    | LearnabilityConfig
)


def require(holds: bool, field: str, expected: str, found: Any) -> None:
    """Raise `ConfigError` for a field whose value is out of range."""
    if not holds:
        raise out_of_range(f"curriculum.{field}", expected, found)


def require_floor(floor: float) -> None:
    """Raise `ConfigError` unless a floor could hold for two arms."""
    require(0.0 <= floor <= 0.5, "floor", "in [0, 0.5]", floor)
