"""Configuration of the reward stage: one class per strategy, and their union `Config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.piece import Piece, RecipeView, Sections
from instar.components.reward.function_config import FunctionConfig, require_names
from instar.components.reward.recycle_config import RecycleConfig
from instar.components.reward.scorer_config import ScorerConfig, scored_by
from instar.components.sandbox.config import SandboxConfig
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.reward.stage import Ins, Outs
    from instar.contract import Context, Metrics

__all__ = ["Config", "FunctionConfig", "RecycleConfig", "RefineConfig", "VerifyConfig"]
SHOWN = 6
"""How many values of a schedule `explain` shows."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Piece):
    """How answers become rewards: reward = correct + `format_reward` * (there is an answer and it is wrong).

    `failed_limit` is the share of failed verdicts above which the stage stops. `style` says where in a completion the answer
    stands. SEC trains with a format reward of 0.1 and tests without one.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"rollouts.token_ids", "tasks.reference"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"scores.correct", "scores.reward", "scores.format_ok"})

    strategy: Literal["verify"] = "verify"
    format_reward: float = 0.0
    failed_limit: float = 0.1
    style: Literal["boxed", "line", "tag", "whole"] = "boxed"
    recycle: RecycleConfig | None = None
    """Turn attempts into generated tasks. None makes no such tasks."""
    functions: tuple[FunctionConfig, ...] = ()
    """The user's own functions (`--reward`). The first one says what is right. Without any, the verifier of a task scores."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """What a function of the user's may use."""
    scorer: ScorerConfig | None = None
    """A model that scores answers (`--scorer`). Beside functions, the first function says what is right. Alone, the model does."""

    def __post_init__(self) -> None:
        """Refuse a format reward as high as the reward of a right answer, and a limit that is not a share."""
        for name, value, low, high in (
            ("format_reward", self.format_reward, 0.0, 0.999),
            ("failed_limit", self.failed_limit, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise out_of_range(f"reward.{name}", f"a number in {low}..{high}", value)
        require_names(self.functions)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        fields: dict[str, str] = {}
        if self.functions or self.scorer is not None:
            fields["format_reward"] = "the verifiers of the tasks, which means without --reward and --scorer"
        if not self.functions:
            fields |= dict.fromkeys(
                ("sandbox.call_s", "sandbox.cpu_s", "sandbox.memory_mb", "sandbox.allow"), "--reward"
            )
        return fields

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request: the code of the functions, and the model that scores."""
        return scored_by(self)

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Verify the answers of all rollouts."""
        from instar.components.reward.score import score

        return score(ins, outs, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a style that the prompts do not ask for, and generated tasks that do not fit the other tasks."""
        if recipe.dataset_prep.strategy == "text":
            recipe.dataset_prep.check_style(self.style, name)
        if self.recycle is not None:
            self.recycle.check(recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State the reward of one rollout, and the tasks that are made from attempts."""
        return {
            "reward": [
                f"{self._reward()}; a rollout whose verdict failed has no reward and is left out",
                *(self.scorer.explain(not self.functions) if self.scorer is not None else []),
            ],
            "own tasks": self.recycle.explain(recipe) if self.recycle else [],
        }

    def _reward(self) -> str:
        """Return the formula of the reward of one rollout."""
        terms = [f"{'' if f.weight == 1.0 else f'{f.weight:g} '}{f.part}" for f in self.functions]
        terms += [self.scorer.terms()] if self.scorer is not None else []
        if self.functions:
            users = (
                f"{', '.join(f.part for f in self.functions)} from the user"
                if self.scorer
                else "functions of the user's"
            )
            return f"r_i = {' + '.join(terms)}, {users}; {self.functions[0].part} says what is right"
        if self.scorer is not None:
            return f"r_i = {terms[0]}"
        shaped = f" + {self.format_reward:g} (if there is an answer and it is wrong)" if self.format_reward else ""
        return f"r_i = correct_i{shaped}"

    @property
    def writes(self) -> tuple[str, ...]:
        """The outputs that are written on request only."""
        return ("generated",) if self.recycle is not None else ()


@dataclass(frozen=True, kw_only=True)
class RefineConfig(Piece):
    """Labels of logged windows in hindsight: the return-to-go, and the weight of the past policy in the action target.

    This is Decision Mamba's progressive self-evolution regularisation (PSER). In iteration k the target is (1 - beta_k) a +
    beta_k a_hat. Here a is the logged action, and a_hat is the action of the policy of iteration k - 1. In iteration 1 beta is
    0. From iteration 2 on, `schedule` gives it:

    - `progressive`: beta_k = min(beta_cap, beta_end k / stages)
    - `fixed`: beta_k = beta_cap
    - `none`: beta_k = 0
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"data.rewards", "rollouts.offset"})
    PROVIDES: ClassVar[frozenset[str]] = frozenset({"scores.reward", "scores.components"})

    strategy: Literal["refine"] = "refine"
    schedule: Literal["progressive", "fixed", "none"] = "progressive"
    beta_end: float = 0.85
    """What beta would be in iteration `stages` without the cap (beta_T in the example of the released code)."""
    beta_cap: float = 0.5
    """Largest beta. The released code names it `lower_bound`, but applies it with min()."""
    stages: int = 40
    """Number of iterations over which beta grows (K in the paper)."""
    delayed: bool = False
    """Pay the whole return at the last step of an episode. The return-to-go is then the same at every step."""

    def __post_init__(self) -> None:
        """Refuse weights outside [0, 1) and an empty schedule."""
        if not 0.0 <= self.beta_end <= 1.0:
            raise out_of_range("reward.beta_end", "in [0, 1]", self.beta_end)
        if not 0.0 <= self.beta_cap < 1.0:
            more = "with a cap of 1 the target could ignore the logged action"
            raise out_of_range("reward.beta_cap", "in [0, 1)", self.beta_cap, more)
        if self.stages < 1:
            raise out_of_range("reward.stages", ">= 1", self.stages)

    def requires(self) -> frozenset[str]:
        """Return the columns that are read. A target that blends actions needs those of the past policy."""
        return self.REQUIRES | ({"rollouts.actions"} if self.schedule != "none" else frozenset())

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        fields: dict[str, str] = {}
        if self.schedule != "progressive":
            fields |= dict.fromkeys(("beta_end", "stages"), "reward.schedule=progressive")
        if self.schedule == "none":
            fields["beta_cap"] = "reward.schedule=progressive or fixed"
        return fields

    def beta(self, iteration: int) -> float:
        """Return the weight of the past policy in an iteration. Iterations count from 1."""
        if self.schedule == "none" or iteration <= 1:
            return 0.0
        grown = self.beta_end * iteration / self.stages if self.schedule == "progressive" else self.beta_cap
        return min(self.beta_cap, grown)

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Label the windows of all rollouts."""
        from instar.components.reward.refine import refine

        return refine(ins.rollouts, ins.policy, ins.data, outs.scores, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a recipe whose stages differ in `delayed`. The return-to-go must mean the same in training and in evaluation."""
        del name
        pieces = {"rollout": recipe.rollout, "reward": self, "evaluate": recipe.evaluate, "test": recipe.test}
        delayed = {field: piece.delayed for field, piece in pieces.items() if hasattr(piece, "delayed")}
        if len(set(delayed.values())) > 1:
            raise ConfigError(
                expected=f"the same value of delayed in {', '.join(delayed)}",
                found=", ".join(f"{field}.delayed={value}" for field, value in delayed.items()),
                where="recipe",
                action="set delayed to the same value in all of them",
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
            f"a~_t = (1 - beta_k) a_t + beta_k a^past_t, where a^past is the action of the policy that {unit} k starts from; that "
            "policy is frozen and reads the same window",
            f"beta_1 = 0, then beta_k = {beta}: {shown}",
        ]


Config: TypeAlias = VerifyConfig | RefineConfig
