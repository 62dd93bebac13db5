"""Configuration of the reward stage: one class per strategy, and their union `Config`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.piece import Piece, RecipeView, Sections
from instar.components.reward.recycle_config import RecycleConfig
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.reward.stage import Ins, Outs
    from instar.contract import Context, Metrics

__all__ = ["Config", "RecycleConfig", "RefineConfig", "VerifyConfig"]
SHOWN = 6
"""Values of a schedule that `explain` writes out."""


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
    """Make generated tasks of the attempts."""

    def __post_init__(self) -> None:
        """Refuse a format reward that pays as much as a right answer, and a limit that is not a share."""
        for name, value, low, high in (
            ("format_reward", self.format_reward, 0.0, 0.999),
            ("failed_limit", self.failed_limit, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise out_of_range(f"reward.{name}", f"a number in {low}..{high}", value)

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Verify the answers of all rollouts."""
        from instar.components.reward.score import score

        return score(ins, outs, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a style in which no answer is asked for, and generated tasks that do not go with the others."""
        if recipe.dataset_prep.strategy == "text":
            recipe.dataset_prep.check_style(self.style, name)
        if self.recycle is not None:
            self.recycle.check(recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State the reward of one rollout, and the tasks that are made of attempts."""
        shaped = f" + {self.format_reward:g} (an answer was found and it is wrong)" if self.format_reward else ""
        reward = f"r_i = correct_i{shaped}; a failed verdict is no number and its rollout is left out"
        return {"reward": [reward], "own tasks": self.recycle.explain(recipe) if self.recycle else []}

    @property
    def writes(self) -> tuple[str, ...]:
        """Return the outputs on request."""
        return ("generated",) if self.recycle is not None else ()


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

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Label the windows of all rollouts."""
        from instar.components.reward.refine import refine

        return refine(ins.rollouts, ins.policy, ins.data, outs.scores, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a return-to-go that means one thing where a policy learns and another where it acts."""
        del name
        pieces = {"rollout": recipe.rollout, "reward": self, "evaluate": recipe.evaluate, "test": recipe.test}
        delayed = {field: piece.delayed for field, piece in pieces.items() if hasattr(piece, "delayed")}
        if len(set(delayed.values())) > 1:
            raise ConfigError(
                expected=f"one value of delayed in {', '.join(delayed)}",
                found=", ".join(f"{field}.delayed={value}" for field, value in delayed.items()),
                where="recipe",
                action="set all of them, or none",
            )

    def explain(self, recipe: RecipeView) -> Sections:
        """State the label of a window, and the action target of PSER with its schedule."""
        prep = recipe.dataset_prep
        fixed = prep.return_scale if prep.strategy == "offline" else None
        scale = f"{fixed:g}" if fixed else "the task's scale"
        rule = "the return of the whole episode at every step" if self.delayed else "r_t + r_t+1 + ..., undiscounted"
        return {"return": [f"R_t = ({rule}) / {scale}"], "target": self._explain_target(recipe)}

    def _explain_target(self, recipe: RecipeView) -> list[str]:
        if self.schedule == "none":
            return ["a~_t = a_t, the logged action"]
        unit, steps = "iteration" if recipe.inner_steps == 1 else "inner step", recipe.iterations * recipe.inner_steps
        cap, grown = f"{self.beta_cap:g}", f"{self.beta_end:g} k/{self.stages}"
        beta = f"min({cap}, {grown})" if self.schedule == "progressive" else cap
        values = [f"{self.beta(k):.3g}" for k in range(1, steps + 1)]
        shown = ", ".join(values if steps <= SHOWN + 1 else [*values[:SHOWN], "...", values[-1]])
        return [
            f"a~_t = (1 - beta_k) a_t + beta_k a^past_t, a^past of the policy that {unit} k starts from: frozen, same window",
            f"beta_1 = 0, beta_k = {beta}: {shown}",
        ]


Config: TypeAlias = VerifyConfig | RefineConfig
