"""Configuration of the curriculum stage: one frozen dataclass per strategy, and their union `Config`.

`strategy` picks the alternative. Fields shared by all: how many prompts an update trains on, how many rollouts each
gets, and how many more prompts to draw when a filter behind the rollouts will drop some.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from instar.components.generated.templates import KINDS
from instar.components.piece import Piece, RecipeView, Sections
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.curriculum.pool import Arm
    from instar.components.curriculum.protocol import Strategy
    from instar.components.update.terms import Filter

Signal: TypeAlias = Literal[
    "abs_advantage", "abs_advantage_correct", "abs_centred", "abs_centred_correct", "loss_change"
]
Absent: TypeAlias = Literal["decay", "hold"]
SIGNALS: dict[Signal, str] = {
    "abs_advantage": "stats.sum_abs_advantage",
    "abs_advantage_correct": "stats.sum_abs_advantage_correct",
    "abs_centred": "stats.sum_abs_centred",
    "abs_centred_correct": "stats.sum_abs_centred_correct",
    "loss_change": "stats.sum_loss_change",
}
"""Signal of `sec` -> the column that it is the mean of."""
SOLVE_RATE = frozenset({"stats.arm", "stats.num_rollouts", "stats.sum_correct"})
"""Columns that a solve rate per arm is made of."""


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

    def check(self, recipe: RecipeView, most: int) -> None:
        """Refuse draws of more tasks than the `most` that can wait, and a filter that counts slots."""
        if self.mode == "alternate" and self.prompts > most:
            raise ConfigError(
                expected=f"curriculum.generated.prompts <= {most}, the most generated tasks that can wait",
                found=f"{self.prompts}",
                where="recipe.curriculum.generated.prompts",
                action=f"set curriculum.generated.prompts to {most} or less, or raise reward.recycle.max_size, max_age or rule",
            )
        behind = update_filter(recipe)
        if behind is not None and behind.keep_prompts:
            raise ConfigError(
                expected="update.filter.keep_prompts=0: generated slots come last, and the first so many groups would leave "
                "them out",
                found=f"{behind.keep_prompts}",
                where="recipe.update.filter",
                action="set it to 0, or train without curriculum.generated",
            )

    def explain(self, recipe: RecipeView) -> str:
        """State how generated tasks are drawn, and what they weigh in the loss."""
        drawn = f"up to {self.prompts} of them are drawn on top of every batch"
        if self.mode == "alternate":
            drawn = f"once {self.prompts} wait, every second step is made of them alone"
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in self.shares.items())
        weights = recipe.update.arm_weights if recipe.update.strategy == "policy_gradient" else {}
        weighed = ", ".join(f"{arm} {weight:g}" for arm, weight in weights.items())
        return (
            f"{drawn}{f' ({shares}, the rest by age)' if shares else ', the oldest first'}, "
            f"{recipe.curriculum.group_size} rollouts each; advantages are those of their own groups, never mixed with solving"
            + (f"; weights of the loss: {weighed}" if weights else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Base(Piece):
    """Fields of every strategy, and its checks."""

    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {"batch.slot", "batch.task_id", "batch.arm", "batch.probability", "batch.group_id", "batch.group_size"}
    )

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

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse generated tasks that nobody makes or draws, and draws that the update would not use."""
        del name
        recycle = recipe.reward.recycle if recipe.reward.strategy == "verify" else None
        if (self.generated is None) != (recycle is None):
            raise ConfigError(
                expected="reward.recycle, which makes generated tasks, together with curriculum.generated, which draws them",
                found="reward.recycle alone" if recycle else "curriculum.generated alone",
                where="recipe.curriculum.generated",
                action="set both, for example curriculum.generated.prompts and reward.recycle.wording, or none",
            )
        if self.generated is not None and recycle is not None:
            self.generated.check(recipe, recycle.most_waiting())
        self._check_oversample(recipe)

    def _check_oversample(self, recipe: RecipeView) -> None:
        behind = update_filter(recipe)
        fits = behind is not None and behind.kind != "none" and behind.keep_prompts == self.prompts
        if self.slots > self.prompts and not fits:
            raise ConfigError(
                expected=f"an update filter that keeps {self.prompts} of the {self.slots} prompts drawn",
                found=f"filter '{behind.kind}' with keep_prompts={behind.keep_prompts}"
                if behind
                else "an update without a filter",
                where="recipe.update.filter",
                action=f"set update.filter.kind=zero_variance and update.filter.keep_prompts={self.prompts}, "
                "or curriculum.oversample=1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformConfig(Base):
    """Every training prompt once per pass, in random order. The control of every comparison."""

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
    """Easy to hard by level; each arm gets an equal share of the planned steps."""

    strategy: Literal["ordered"] = "ordered"
    steps: int
    """Planned inner steps of the evolution; later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.ordered import Ordered

        return Ordered(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        way = {"prompt": "easy to hard", "segment": "lowest return first"}[recipe.dataset_prep.UNIT]
        return {"curriculum": [f"one level after another, {way}, an equal share of {self.steps} steps each"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseConfig(Base):
    """Hard to easy by level; otherwise as `ordered`."""

    strategy: Literal["reverse"] = "reverse"
    steps: int
    """Planned inner steps of the evolution; later steps stay on the last level."""

    def __post_init__(self) -> None:
        Base.__post_init__(self)
        require(self.steps >= 1, "steps", ">= 1", self.steps)

    def build(self, arms: Sequence[Arm]) -> Strategy:
        """Return a fresh strategy over `arms`."""
        from instar.components.curriculum.ordered import Ordered

        return Ordered(self, arms)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how tasks are drawn."""
        way = {"prompt": "hard to easy", "segment": "highest return first"}[recipe.dataset_prep.UNIT]
        return {"curriculum": [f"one level after another, {way}, an equal share of {self.steps} steps each"]}


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

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"stats.arm", "stats.num_prompts", "stats.num_rollouts"})

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

    def requires(self) -> frozenset[str]:
        """Return the columns read: those of the signal, or the reward whose progress it is."""
        signal = SIGNALS[self.switches.signal] if self.objective == "advantage" else "stats.sum_reward"
        return self.REQUIRES | {signal}

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
    """Beta posterior of the solve rate per arm with decay; arms are scored by theta (1 - theta)."""

    REQUIRES: ClassVar[frozenset[str]] = SOLVE_RATE

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
    """P ~ p (1 - p) with p a moving average of the solve rate."""

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
    """Only the arms of the highest level, as many as make up a share of the tasks: filtered behaviour cloning's choice."""

    strategy: Literal["best"] = "best"
    share: float = 0.25
    """Share of all training tasks; arms are taken whole, the best first, until it is reached."""

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
                f"only the best arms: whole ones by mean level, highest first, until they hold {self.share:.0%} of the "
                f"training {recipe.dataset_prep.UNIT}s; each in proportion to its size, nothing is adapted"
            ]
        }


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


def update_filter(recipe: RecipeView) -> Filter | None:
    """Return the filter behind the rollouts, if the update has one."""
    return recipe.update.filter if recipe.update.strategy == "policy_gradient" else None
