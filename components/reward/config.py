"""Settings of the reward stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from instar.components.columns import Piece
from instar.components.generated.rule import Rule
from instar.components.generated.templates import Wording
from instar.config import out_of_range


@dataclass(frozen=True, kw_only=True)
class RecycleConfig:
    """Generated tasks made of every step's attempts (SPARK section 2)."""

    wording: Wording = "words"
    """`words` for language models, `terse` for character models."""
    rule: Rule = field(default_factory=Rule)
    max_age: int = 8
    """Most updates between the policy that wrote an attempt and the one that judges it; 0 has no limit."""
    max_size: int = 512
    """Most tasks in the cache, the oldest go first; 0 has no limit."""
    max_chars: int = 16_000
    """Longest prompt; a longer one is not made."""
    remember: int = 32
    """Steps in which no task of equal parent, shown texts and template family is made again; 0 allows repeats."""
    keep_truncated: bool = False
    """Make tasks of attempts that the length limit cut. Their label is "wrong" whatever they were about to say."""

    def __post_init__(self) -> None:
        """Refuse sizes below zero, shares that are none, and a reflection that only confirms."""
        rule = self.rule
        shares = {"rule.pair_share": rule.pair_share, "rule.known_wrong_share": rule.known_wrong_share}
        counts = {"rule.judges": rule.judges, "rule.reflections": rule.reflections, "max_age": self.max_age}
        counts |= {"max_size": self.max_size, "max_chars": self.max_chars, "remember": self.remember}
        checks = [(name, 0.0 <= value <= 1.0, "in 0..1", value) for name, value in shares.items()]
        checks += [
            (name, value >= (least := int(name == "max_chars")), f">= {least}", value) for name, value in counts.items()
        ]
        checks.append(("rule.confirm_share", 0.0 <= rule.confirm_share <= 0.9, "in 0..0.9", rule.confirm_share))
        for name, holds, expected, found in checks:
            if not holds:
                raise out_of_range(f"reward.recycle.{name}", expected, found)

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them: `terse` has one form of reflection."""
        return {"rule.known_wrong_share": "recycle.wording=words or few_shot"} if self.wording == "terse" else {}


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Piece):
    """How answers become rewards: reward = correct + `format_reward` * (an answer was found and it is wrong).

    SEC trains with a format reward of 0.1 and tests without one. `failed_limit` is the share of failed verdicts above
    which the stage stops. `style` says where in the completion the answer stands.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"rollouts.token_ids", "tasks.reference"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"scores.correct", "scores.reward", "scores.format_ok"})

    strategy: Literal["verify"] = "verify"
    format_reward: float = 0.0
    failed_limit: float = 0.1
    style: Literal["boxed", "line", "tag"] = "boxed"
    recycle: RecycleConfig | None = None
    """Make generated tasks of the attempts; without it the table of generated tasks stays empty."""

    def __post_init__(self) -> None:
        """Refuse a format reward that pays as much as a right answer, and a limit that is not a share."""
        for name, value, low, high in (
            ("format_reward", self.format_reward, 0.0, 0.999),
            ("failed_limit", self.failed_limit, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise out_of_range(f"reward.{name}", f"a number in {low}..{high}", value)


@dataclass(frozen=True, kw_only=True)
class RefineConfig(Piece):
    """Hindsight labels of logged windows: the return-to-go, and how much of the past policy goes into the action target.

    Decision Mamba's progressive self-evolution regularisation (PSER): in iteration k the target is
    (1 - beta_k) a + beta_k a_hat, a_hat of the policy of iteration k - 1, and
    `progressive`: beta_1 = 0, beta_k = min(beta_cap, beta_end k / stages); `fixed`: beta_cap from iteration 2 on; `none`: 0.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"data.rewards", "rollouts.offset"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"scores.reward", "scores.components"})

    strategy: Literal["refine"] = "refine"
    schedule: Literal["progressive", "fixed", "none"] = "progressive"
    beta_end: float = 0.85
    """beta of the last iteration before the cap (beta_T of the released code's example)."""
    beta_cap: float = 0.5
    """Largest beta; the release names it `lower_bound` and applies it with min()."""
    stages: int = 40
    """K: iterations over which beta grows."""
    delayed: bool = False
    """Pay the whole return at the last step of an episode, so that the return-to-go is the same at every step."""

    def __post_init__(self) -> None:
        """Refuse weights outside [0, 1) and an empty schedule."""
        if not 0.0 <= self.beta_end <= 1.0:
            raise out_of_range("reward.beta_end", "in [0, 1]", self.beta_end)
        if not 0.0 <= self.beta_cap < 1.0:
            more = "a cap of 1 would never look at the logged action"
            raise out_of_range("reward.beta_cap", "in [0, 1)", self.beta_cap, more)
        if self.stages < 1:
            raise out_of_range("reward.stages", ">= 1", self.stages)

    def requires(self) -> frozenset[str]:
        """Return the columns read: a blend needs the past policy's actions."""
        return self.REQUIRES | ({"rollouts.actions"} if self.schedule != "none" else frozenset())

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found: dict[str, str] = {}
        if self.schedule != "progressive":
            found |= dict.fromkeys(("beta_end", "stages"), "reward.schedule=progressive")
        if self.schedule == "none":
            found["beta_cap"] = "reward.schedule=progressive or fixed"
        return found

    def beta(self, iteration: int) -> float:
        """Return the weight of the past policy in iteration `iteration`, counted from 1."""
        if self.schedule == "none" or iteration <= 1:
            return 0.0
        grown = self.beta_end * iteration / self.stages if self.schedule == "progressive" else self.beta_cap
        return min(self.beta_cap, grown)


Config: TypeAlias = VerifyConfig | RefineConfig
