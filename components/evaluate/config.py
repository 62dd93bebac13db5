"""Configuration of the evaluation stage: one class per strategy, and their union `Config`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from instar import config as configs
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.piece import Piece, RecipeView, Sections
from instar.components.reward.function_config import FunctionConfig, require_names
from instar.components.reward.scorer_config import ScorerConfig, scored_by
from instar.components.rollout.config import EngineConfig
from instar.components.sandbox.config import SandboxConfig
from instar.config import out_of_range
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.evaluate.attempts import Attempts
    from instar.components.evaluate.stage import Ins
    from instar.contract import Context
    from instar.rows import TaskRow

NO_REWARD = (
    "what the policy says about an answer is never a reward and never a label; it judges in order to learn judging, to be measured "
    "as a judge, and to correct itself at test time"
)
SPLITS = ("val", "id", "ood")
Measure: TypeAlias = Literal["accuracy", "normalised_score"]


@dataclass(frozen=True, kw_only=True)
class Judged(Piece):
    """The fields that every strategy has: which tasks are attempted, and how sure a verdict must be."""

    splits: tuple[str, ...] = SPLITS
    """Pools to evaluate. The gate reads `val`."""
    tasks_per_arm: int = 0
    """How many tasks of each arm and split are attempted. They are the first ones, for every policy; 0 takes all."""
    confidence: float = 0.95
    """Confidence level of all intervals."""
    margin: float = 0.02
    """Loss of the mean over arms that still counts as equal."""
    min_pairs: int = 20
    """Fewer common tasks than this give the verdict `unknown`. A recipe whose gate would rest on fewer is refused."""

    def __post_init__(self) -> None:
        unknown = [s for s in self.splits if s not in SPLITS]
        _require(bool(self.splits) and not unknown, "splits", f"a choice of {', '.join(SPLITS)}", self.splits)
        _require(len(set(self.splits)) == len(self.splits), "splits", "a list with each split once", self.splits)
        _require(
            self.tasks_per_arm == 0 or self.tasks_per_arm >= 2, "tasks_per_arm", "0 or at least 2", self.tasks_per_arm
        )
        _require(0.5 <= self.confidence < 1.0, "confidence", "in [0.5, 1)", self.confidence)
        _require(0.0 <= self.margin < 1.0, "margin", "in [0, 1)", self.margin)
        _require(self.min_pairs >= 2, "min_pairs", ">= 2", self.min_pairs)

    def validation_sizes(self, recipe: RecipeView) -> dict[str, int]:
        """Return arm -> number of validation tasks that are evaluated. Arms without such tasks are left out."""
        most, sizes = self.tasks_per_arm, recipe.dataset_prep.validation_sizes()
        return {arm: min(count, most) if most else count for arm, count in sizes.items()}

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse pools that are never made. Also refuse an evaluation of iterations without `val`, because the gate reads it."""
        pools = recipe.dataset_prep.splits()
        missing = [split for split in self.splits if split not in pools]
        if missing or (name == "evaluate" and "val" not in self.splits):
            raise ConfigError(
                expected=f"splits that dataset_prep makes: {', '.join(sorted(pools))}"
                if missing
                else "a list of splits with val, because the gate reads it",
                found=", ".join(missing or self.splits),
                where=f"recipe.{name}.splits",
                action=f"remove {', '.join(missing)} from {name}.splits" if missing else f"add val to {name}.splits",
            )


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(Judged):
    """Answers to held-out prompts, which are verified. The score of an answer is 1 or 0, so the measure is an accuracy."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"tasks.prompt", "tasks.reference"})
    measure: ClassVar[Measure] = "accuracy"
    _PROTOCOL: ClassVar[tuple[str, ...]] = (
        "samples",
        "greedy",
        "max_new_tokens",
        "temperature",
        "stop",
        "style",
        "judge",
        "reflect",
    )

    strategy: Literal["answer"] = "answer"
    samples: int = 1
    """Sampled answers per task. With 0, which needs `greedy`, only greedy answers are evaluated."""
    greedy: bool = False
    """Also take one greedy answer per task. The verdict rests on the samples where there are any."""
    max_new_tokens: int
    """Most tokens of an answer."""
    temperature: float = 1.0
    """Temperature of the samples."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer, as in training."""
    style: Literal["boxed", "line", "tag", "whole"] = "boxed"
    """Where in a completion the answer stands, as in training."""
    failed_limit: float = 0.1
    """Share of failed verdicts above which the stage stops."""
    judge: JudgeConfig | None = None
    """Also measure how well the policy judges answers: those of the anchors, and with `greedy` its own."""
    reflect: ReflectConfig | None = None
    """Also let the policy judge and correct its greedy answers. The score stays that of the uncorrected answers."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    functions: tuple[FunctionConfig, ...] = ()
    """The user's own functions, as in training. The score of an answer is what the first one says is right."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """What a function of the user's may use, as in training."""
    scorer: ScorerConfig | None = None
    """The model that scores answers, as in training. Without functions, the score of an answer is how right it says it is."""

    def __post_init__(self) -> None:
        Judged.__post_init__(self)
        require_names(self.functions)
        _require(self.samples >= 0, "samples", ">= 0", self.samples)
        _require(self.samples > 0 or self.greedy, "samples", "> 0 unless greedy is true", self.samples)
        _require(self.max_new_tokens >= 1, "max_new_tokens", ">= 1", self.max_new_tokens)
        _require(
            0.0 < self.temperature < float("inf"),
            "temperature",
            "> 0, because greedy answers have a field of their own",
            self.temperature,
        )
        _require(all(self.stop), "stop", "a list of strings with at least one character", self.stop)
        _require(0.0 <= self.failed_limit <= 1.0, "failed_limit", "in [0, 1]", self.failed_limit)
        if self.judge is not None:
            style = self.judge.style
            _require(
                self.style == style,
                "style",
                f"'{style}', the style of answers in judge.wording '{self.judge.wording}'",
                self.style,
            )
        if self.reflect is not None:
            needed = "a table such as {wording = 'words'}, because reflection needs a judge that is measured"
            _require(self.judge is not None, "judge", needed, self.judge)
            _require(self.greedy, "greedy", "true, because reflection starts from the greedy answer", self.greedy)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting that would give it one."""
        return {} if self.samples else {"temperature": "samples > 0"}

    @property
    def protocol(self) -> tuple[str, ...]:
        """The settings under which answers are comparable."""
        scoring = {"functions": bool(self.functions), "scorer": self.scorer is not None}
        return (*self._PROTOCOL, *(name for name, used in scoring.items() if used))

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request: the code of the functions, and the model that scores."""
        return scored_by(self)

    def attempt(self, tasks: Sequence[TaskRow], ins: Ins, ctx: Context) -> Attempts:
        """Answer the tasks and verify the answers."""
        from instar.components.evaluate.answers import answer

        return answer(tasks, ins, self, ctx)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a style that the prompts do not ask for, a judge without anchors, and another scoring than in training."""
        prep = recipe.dataset_prep
        trained = recipe.reward.functions if recipe.reward.strategy == "verify" else ()
        if self.functions != trained:
            raise ConfigError(
                expected=f"the functions of training: {', '.join(f.entry for f in trained) or 'none'}",
                found=", ".join(f.entry for f in self.functions) or "none",
                where=f"recipe.{name}.functions",
                action="name the same functions in reward.functions, evaluate.functions and test.functions, as --reward does",
            )
        scorer = recipe.reward.scorer if recipe.reward.strategy == "verify" else None
        if self.scorer != scorer:
            raise ConfigError(
                expected=f"the scorer of training: {configs.dumps(scorer) if scorer else 'none'}",
                found=configs.dumps(self.scorer) if self.scorer else "none",
                where=f"recipe.{name}.scorer",
                action="give reward.scorer, evaluate.scorer and test.scorer the same settings, as --scorer does",
            )
        if prep.strategy == "text":
            prep.check_style(self.style, name)
        if self.judge is not None:
            self.judge.check(prep.anchors if prep.strategy == "text" else None, name)
        Judged.check(self, recipe, name)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how the policy is measured as a judge and how it corrects itself, in the evaluation or at the test."""
        test = recipe.test if recipe.test.strategy == "answer" else self
        judge, reflect = self.judge or test.judge, test.reflect or self.reflect
        recycled = recipe.reward.strategy == "verify" and recipe.reward.recycle is not None
        asked = [] if judge is None else judge.explain()
        if recycled and judge is None:
            asked = ["not measured (evaluate.judge is none)"]
        return {
            "judge": [NO_REWARD, *asked] if asked else [],
            "reflection": reflect.explain() if reflect is not None else [],
        }

    @property
    def by_greedy(self) -> bool:
        """Whether verdicts rest on greedy answers."""
        return self.samples == 0

    @property
    def bounded(self) -> bool:
        """Whether every score is in [0, 1]."""
        return True


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(Judged):
    """Episodes in the simulator, conditioned on a target return. All policies begin from the same start states.

    The score is 0 at the return of a random policy and 1 at that of the expert. A policy acts deterministically, so a task has one
    episode.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset({"tasks.features"})
    measure: ClassVar[Measure] = "normalised_score"
    protocol: ClassVar[tuple[str, ...]] = ("context", "delayed")

    strategy: Literal["simulate"] = "simulate"
    splits: tuple[str, ...] = ("val", "id")
    """Pools to evaluate. The gate reads `val`. Offline data has no pool `ood`."""
    context: Literal["carried", "window"] = "carried"
    """`carried` carries the state of the policy from step to step, with constant work per step. `window` runs the last K steps
    again at every step."""
    delayed: bool = False
    """Keep the return-to-go at the target, instead of lowering it by every reward. It has the value of `reward.delayed`."""
    probes: bool = True
    """Also run the tasks of pool `probe`. They ask for other returns and show whether the policy follows its target."""
    max_envs: int = 64
    """Most episodes that run at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        Judged.__post_init__(self)
        _require(self.max_envs >= 1, "max_envs", ">= 1", self.max_envs)

    def attempt(self, tasks: Sequence[TaskRow], ins: Ins, ctx: Context) -> Attempts:
        """Run one episode per task."""
        from instar.components.evaluate.simulate import simulate
        from instar.components.task_table import pools_of

        return simulate(tasks, pools_of(ins), ins.policy, self, ctx)

    def explain(self, recipe: RecipeView) -> Sections:
        """State how a policy is measured at the test, and which one is reported."""
        test, prep = recipe.test, recipe.dataset_prep
        if test.strategy != "simulate" or prep.strategy != "offline":
            return {}
        target = "the task's target return" if prep.target is None else f"a return of {prep.target:g}"
        carried = test.context == "carried"
        how = "the state is carried from step to step" if carried else "the last K steps are run again at every step"
        newest = recipe.gate.select == "last"
        policy = "the last policy, and beside it the best of all iterations" if newest else "the champion of the gate"
        lines = [
            f"episodes ask for {target} and begin from start states that all policies share: {prep.val_episodes} in validation, "
            f"{prep.test_episodes} other ones in the test; R falls by every reward received; {how}",
            "score = (return - random) / (expert - random), so a random policy has 0 and the expert has 1",
            f"reported: {policy}; {test.confidence:.0%} intervals over episodes",
        ]
        if test.probes and prep.probes != ():
            asked = "the task's" if prep.probes is None else ", ".join(f"{probe:g}" for probe in prep.probes)
            lines.append(
                f"probes: {prep.probe_episodes} episodes for each other target return ({asked}); they show whether the policy "
                "follows its target and enter no verdict"
            )
        return {"evaluation": lines}

    @property
    def by_greedy(self) -> bool:
        """Whether verdicts rest on greedy answers. A deterministic episode counts as one."""
        return True

    @property
    def bounded(self) -> bool:
        """Whether every score is in [0, 1]. It is not: a return may be worse than random, or better than the expert's."""
        return False


Config: TypeAlias = AnswerConfig | SimulateConfig


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise out_of_range(f"evaluate.{name}", expected, found)
