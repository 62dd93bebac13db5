"""Configuration of the curriculum stage: one frozen dataclass per strategy, and their union `Config`.

The field `strategy` picks the class. Fields that all of them share are in `base_config.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from instar.components.curriculum.base_config import Base, GeneratedDraw, require, require_floor
from instar.components.piece import RecipeView, Sections
from instar.components.sandbox.config import SandboxConfig, check_entry

if TYPE_CHECKING:
    from instar.components.curriculum.pool import Arm
    from instar.components.curriculum.protocol import Strategy

__all__ = [
    "SEC_MODES",
    "BestConfig",
    "Config",
    "GeneratedDraw",
    "LearnabilityConfig",
    "OrderedConfig",
    "OwnConfig",
    "ProximalConfig",
    "ReverseConfig",
    "SecConfig",
    "Switches",
    "ThompsonConfig",
    "UniformConfig",
]
Signal: TypeAlias = Literal[
    "abs_advantage", "abs_advantage_correct", "abs_centred", "abs_centred_correct", "loss_change"
]
Absent: TypeAlias = Literal["decay", "hold"]
SIGNALS: dict[Signal, str] = {
    "abs_advantage": "sum_abs_advantage",
    "abs_advantage_correct": "sum_abs_advantage_correct",
    "abs_centred": "sum_abs_centred",
    "abs_centred_correct": "sum_abs_centred_correct",
    "loss_change": "sum_loss_change",
}
"""Signal of `sec` -> the column of the arm statistics that holds its sum."""
SOLVE_RATE = frozenset({"stats.arm", "stats.num_rollouts", "stats.sum_correct"})
"""Columns that the solve rate of an arm is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformConfig(Base):
    """Every training prompt once per pass, in random order. Other curricula are compared with this one."""

    strategy: Literal["uniform"] = "uniform"

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.uniform import Uniform

        return Uniform(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        return {"curriculum": [f"every training {recipe.dataset_prep.UNIT} once per pass ({self.strategy})"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedConfig(Base):
    """One level after another, from easy to hard. Each arm gets an equal share of the planned steps."""

    strategy: Literal["ordered"] = "ordered"
    steps: int
    """Planned inner steps of the evolution. Later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.ordered import Ordered

        return Ordered(self, arms)

    def outlook(self, recipe: RecipeView) -> str:
        """Say which steps of the run come after the plan."""
        return _after_plan(self.strategy, self.steps, recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        way = {"prompt": "easy to hard", "slice": "lowest return first"}[recipe.dataset_prep.UNIT]
        return {"curriculum": [f"one level after another, {way}, an equal share of {self.steps} steps each"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseConfig(Base):
    """One level after another, from hard to easy. Otherwise the same as `ordered`."""

    strategy: Literal["reverse"] = "reverse"
    steps: int
    """Planned inner steps of the evolution. Later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.ordered import Ordered

        return Ordered(self, arms)

    def outlook(self, recipe: RecipeView) -> str:
        """Say which steps of the run come after the plan."""
        return _after_plan(self.strategy, self.steps, recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        way = {"prompt": "hard to easy", "slice": "highest return first"}[recipe.dataset_prep.UNIT]
        return {"curriculum": [f"one level after another, {way}, an equal share of {self.steps} steps each"]}


def _after_plan(strategy: str, steps: int, recipe: RecipeView) -> str:
    total = recipe.iterations * recipe.inner_steps
    more = f"the plan of curriculum '{strategy}' has {steps} steps: the last {total - steps} of {total} stay on its last level"
    return more if total > steps else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """The four settings in which the two modes of `sec` differ."""

    signal: Signal
    """The mean over an arm's rollouts that Q follows: an absolute advantage, or the fall of the loss over the update."""
    absent: Absent
    """What happens to the Q of an arm that was not in the batch. `decay` multiplies it by (1 - alpha). `hold` leaves it as it
    is."""
    q0: float
    """Q before the first observation."""
    floor: float
    """Smallest probability of an arm."""


SEC_MODES: dict[str, Switches] = {
    # The published algorithm (SEC section 3 and its code).
    "faithful": Switches(signal="abs_advantage", absent="decay", q0=0.0, floor=0.0),
    # Q follows correctness alone, so a format reward cannot make an arm look learnable. Arms that were not drawn keep their Q,
    # and Q starts at 1, so that every arm is tried.
    "fixed": Switches(signal="abs_advantage_correct", absent="hold", q0=1.0, floor=0.01),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SecConfig(Base):
    """Self-Evolving Curriculum, arXiv 2505.14970: a Boltzmann bandit on the mean absolute advantage per arm."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"stats.arm", "stats.num_prompts", "stats.num_rollouts"})

    strategy: Literal["sec"] = "sec"
    mode: Literal["faithful", "fixed"] = "faithful"
    """Sets `signal`, `absent`, `q0` and `floor` (see `SEC_MODES`). Each of the four fields below overrides the mode when it is
    set."""
    alpha: float = 0.5
    """Step size of Q."""
    tau: float = 0.2
    """Temperature. It must fit the scale of the signal, which lies in [0, 0.9] for groups of 8."""
    objective: Literal["advantage", "progress"] = "advantage"
    """What Q follows. `advantage`: the signal. `progress`: the change of the arm's mean reward since it was last seen; `signal`
    then has no effect."""
    method: Literal["boltzmann", "normalized_q", "greedy"] = "boltzmann"
    """How probabilities follow from Q. `boltzmann`: P ~ exp(Q / tau). `normalized_q`: P ~ max(Q, 0.01). `greedy`: the arm with the
    largest Q, except that a share `epsilon` of the draws is uniform over all arms."""
    epsilon: float = 0.1
    """Share of uniform draws of `greedy`."""
    signal: Signal | None = None
    """Overrides the signal of the mode."""
    absent: Absent | None = None
    """Overrides what the mode does with arms that were not drawn."""
    q0: float | None = None
    """Overrides the first Q of the mode."""
    floor: float | None = None
    """Overrides the smallest probability of the mode."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.alpha <= 1.0, "alpha", "in (0, 1]", self.alpha)
        require(self.tau > 0.0, "tau", "> 0", self.tau)
        require(0.0 <= self.epsilon <= 1.0, "epsilon", "in [0, 1]", self.epsilon)
        require(self.mode in SEC_MODES, "mode", " or ".join(SEC_MODES), self.mode)
        grouped = self.objective == "advantage" and self.switches.signal != "loss_change"
        alone = grouped and self.group_size < 2
        require(not alone, "group_size", ">= 2, because a single rollout has advantage 0", self.group_size)
        require_floor(self.switches.floor)

    @property
    def switches(self) -> Switches:
        """The four settings of the mode, after the overrides."""
        mode = SEC_MODES[self.mode]
        return Switches(
            signal=mode.signal if self.signal is None else self.signal,
            absent=mode.absent if self.absent is None else self.absent,
            q0=mode.q0 if self.q0 is None else self.q0,
            floor=mode.floor if self.floor is None else self.floor,
        )

    @property
    def signal_column(self) -> str:
        """The column of the arm statistics that Q follows: the column of the signal, or the sum of rewards for `progress`."""
        return SIGNALS[self.switches.signal] if self.objective == "advantage" else "sum_reward"

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting under which it has one."""
        fields = {} if self.method == "boltzmann" else {"tau": "curriculum.method=boltzmann"}
        if self.method != "greedy":
            fields["epsilon"] = "curriculum.method=greedy"
        return fields if self.objective == "advantage" else {**fields, "signal": "curriculum.objective=advantage"}

    def requires(self) -> frozenset[str]:
        """Return the columns that are read: those that every mode reads, and the one that Q follows."""
        return self.REQUIRES | {f"stats.{self.signal_column}"}

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.sec import Sec

        return Sec(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how Q moves, and how tasks are drawn from it."""
        switches = self.switches
        signal = f"mean {switches.signal} of the arm's rollouts"
        if switches.signal == "loss_change":
            signal = "mean fall of the arm's loss over the update, on the same windows"
        if self.objective == "progress":
            signal = "change of the mean reward"
        rules = {
            "boltzmann": f"P ~ exp(Q / {self.tau:g})",
            "normalized_q": "P ~ max(Q, 0.01)",
            "greedy": f"best arm, {self.epsilon:g} of the draws uniform",
        }
        absent = f"Q x {1 - self.alpha:g}" if switches.absent == "decay" else "Q unchanged"
        floor = f", no arm below {switches.floor:g}" if switches.floor else ""
        return {
            "curriculum": [
                f"Q[arm] += {self.alpha:g} (signal - Q[arm]), signal = {signal}; not drawn: {absent}; Q starts at "
                f"{switches.q0:g}",
                f"{rules[self.method]}{floor}; one draw per {recipe.dataset_prep.UNIT} (mode {self.mode})",
            ]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ThompsonConfig(Base):
    """Thompson sampling on a Beta posterior of each arm's solve rate theta. An arm scores
    theta (1 - theta)."""

    REQUIRES: ClassVar[frozenset[str]] = SOLVE_RATE

    strategy: Literal["thompson"] = "thompson"
    decay: float = 0.9
    """Factor on the evidence of every arm per step. With 1, no evidence is ever forgotten."""
    prior: float = 1.0
    """Right answers, and also wrong answers, that every arm is assumed to have before the first observation."""
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

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.thompson import Thompson

        return Thompson(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        del recipe
        evidence = f"Beta posterior of the solve rate theta, evidence x {self.decay:g} a step"
        rule = f"{evidence}; P = P(theta (1 - theta) is best)"
        return {"curriculum": [f"{rule}, no arm below {self.floor:g}"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProximalConfig(Base):
    """ProCuRL: Q is a moving average of the solve rate and P ~ exp(Q (1 - Q) / tau)."""

    REQUIRES: ClassVar[frozenset[str]] = SOLVE_RATE

    strategy: Literal["proximal"] = "proximal"
    alpha: float = 0.5
    """Step size of the moving average."""
    tau: float = 0.05
    """Temperature. Q (1 - Q) lies in [0, 0.25], so with 0.05 one arm can be up to e^5 times as probable as another."""
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

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.proximal import Proximal

        return Proximal(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        del recipe
        rule = f"Q moves by {self.alpha:g} to the solve rate; P ~ exp(Q (1 - Q) / {self.tau:g})"
        return {"curriculum": [f"{rule}, no arm below {self.floor:g}"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnabilityConfig(Base):
    """P ~ p (1 - p), where p is a moving average of the arm's solve rate."""

    REQUIRES: ClassVar[frozenset[str]] = SOLVE_RATE

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

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.learnability import Learnability

        return Learnability(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        del recipe
        rule = f"p moves by {self.alpha:g} to the solve rate; P ~ p (1 - p)"
        return {"curriculum": [f"{rule}, no arm below {self.floor:g}"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class BestConfig(Base):
    """Only the arms with the highest level, until they hold a share of the tasks. Filtered behaviour cloning makes this choice."""

    strategy: Literal["best"] = "best"
    share: float = 0.25
    """Share of all training tasks. Whole arms are taken, the highest level first, until they hold this share."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(0.0 < self.share <= 1.0, "share", "in (0, 1]", self.share)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.best import Best

        return Best(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        return {
            "curriculum": [
                f"only the best arms: whole arms, highest mean level first, until they hold {self.share:.0%} of the "
                f"training {recipe.dataset_prep.UNIT}s; each is drawn in proportion to its size, and nothing adapts"
            ]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnConfig(Base):
    """A class of the user's. `--set curriculum.strategy=FILE.py:CLASS` chooses it."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"stats.arm"})

    strategy: Literal["own"] = "own"
    entry: str
    """FILE.py:CLASS inside of the bundle."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class, for example `{"share": 0.5}`."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """What the class may use."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        check_entry(self.entry)

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request: the code."""
        return ("curriculum_code",)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Refuse: the class needs its code, which `own.builder` has."""
        raise NotImplementedError(f"{self.entry} is built from its code artifact")

    def explain(self, recipe: RecipeView) -> Sections:
        """State which class draws the tasks."""
        del recipe
        settings = ", ".join(f"{name}={value}" for name, value in sorted(self.settings.items()))
        return {"curriculum": [f"the user's {self.entry}({settings})"]}


Config: TypeAlias = (
    UniformConfig
    | BestConfig
    | OrderedConfig
    | ReverseConfig
    | SecConfig
    | ThompsonConfig
    | ProximalConfig
    | LearnabilityConfig
    | OwnConfig
)
