"""What the configurations of all strategies share: the sizes of a batch, the draw of generated tasks, and the checks of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from instar.components.generated.templates import KINDS
from instar.components.piece import Piece, RecipeView
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.update.terms import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedDraw:
    """How tasks that the evolution made itself are drawn. The oldest come first."""

    prompts: int
    """The largest number of generated prompts per step. They come on top of the other prompts of a batch."""
    mode: Literal["mixed", "alternate"] = "mixed"
    """`mixed` appends generated prompts to every batch. `alternate` gives them a batch of their own: when `prompts` of them
    wait and the step before had none. That makes two updates per round, as published."""
    shares: dict[str, float] = field(default_factory=dict)
    """Kind -> share of the generated prompts, for example `{"judge-pair": 0.5}`. What a kind cannot fill goes to the oldest tasks
    of any kind. Without shares, tasks are drawn by age alone."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "generated.prompts", ">= 1", self.prompts)
        unknown = sorted(set(self.shares) - set(KINDS))
        require(not unknown, "generated.shares", f"kinds of {', '.join(KINDS)}", unknown)
        good = all(0.0 <= share <= 1.0 for share in self.shares.values()) and sum(self.shares.values()) <= 1.0 + 1e-9
        require(good, "generated.shares", "shares that add up to at most 1", self.shares)

    def check(self, recipe: RecipeView, most: int) -> None:
        """Refuse a draw of more tasks than can wait (`most`), and an update filter that would leave generated tasks out."""
        if self.mode == "alternate" and self.prompts > most:
            raise ConfigError(
                expected=f"curriculum.generated.prompts <= {most}, because at most {most} generated tasks can wait",
                found=f"{self.prompts}",
                where="recipe.curriculum.generated.prompts",
                action=f"set curriculum.generated.prompts to {most} or less, or raise reward.recycle.max_size, max_age or rule",
            )
        behind = update_filter(recipe)
        if behind is not None and behind.keep_prompts:
            raise ConfigError(
                expected="update.filter.keep_prompts=0, because the filter keeps the first groups of a batch and generated "
                "tasks come last",
                found=f"{behind.keep_prompts}",
                where="recipe.update.filter.keep_prompts",
                action="set update.filter.keep_prompts=0, or train without curriculum.generated",
            )

    def explain(self, recipe: RecipeView) -> str:
        """State how generated tasks are drawn, and which weight they have in the loss."""
        drawn = f"up to {self.prompts} of them are drawn on top of every batch"
        if self.mode == "alternate":
            drawn = f"when {self.prompts} of them wait, they are a batch of their own, at most in every second step"
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
    """Prompts that one update trains on (B)."""
    group_size: int
    """Rollouts per prompt (n)."""
    oversample: float = 1.0
    """ceil(prompts * oversample) slots are drawn. The update trains on the first `prompts` groups that its filter keeps."""
    generated: GeneratedDraw | None = None
    """Also draw tasks that the evolution made itself."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "prompts", ">= 1", self.prompts)
        require(self.group_size >= 1, "group_size", ">= 1", self.group_size)
        require(self.oversample >= 1.0 and math.isfinite(self.oversample), "oversample", ">= 1", self.oversample)

    @property
    def slots(self) -> int:
        """Prompt slots to draw per step. Without the small term, rounding errors would make 111 of 100 * 1.1."""
        return math.ceil(self.prompts * self.oversample - 1e-9)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse generated tasks that no stage makes or draws, and more slots than the update would use."""
        del name
        recycle = recipe.reward.recycle if recipe.reward.strategy == "verify" else None
        if (self.generated is None) != (recycle is None):
            raise ConfigError(
                expected="both reward.recycle, which makes generated tasks, and curriculum.generated, which draws them",
                found="reward.recycle alone" if recycle else "curriculum.generated alone",
                where="recipe.curriculum.generated",
                action="set both, for example curriculum.generated.prompts and reward.recycle.wording, or set neither",
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


def require(holds: bool, field: str, expected: str, found: Any) -> None:
    """Raise `ConfigError` for a field whose value is out of range. `holds` says that it is in range."""
    if not holds:
        raise out_of_range(f"curriculum.{field}", expected, found)


def require_floor(floor: float) -> None:
    """Raise `ConfigError` for a floor outside of [0, 0.5]. Two arms cannot both have more than 0.5."""
    require(0.0 <= floor <= 0.5, "floor", "in [0, 0.5]", floor)


def update_filter(recipe: RecipeView) -> Filter | None:
    """Return the filter that the update applies to groups of rollouts, or None when it has none."""
    return recipe.update.filter if recipe.update.strategy == "policy_gradient" else None
