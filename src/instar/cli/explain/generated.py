"""Tasks that an evolution makes itself, what the policy's verdicts are used for, and reflection at test time (SPARK)."""

from __future__ import annotations

from instar.cli.explain.layout import section
from instar.components.curriculum.config import GeneratedDraw
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.update.config import PolicyGradientConfig
from instar.pipelines.recipe import Recipe

NONE = "-"
BALANCE = {
    "none": "labels follow the policy's accuracy, as in the release: the better it solves, the more often Yes is right",
    "label": "among single answers as many are right as wrong, at every accuracy; of pairs A is right as often as B",
    "arm": "among single answers of every arm as many are right as wrong; of pairs A is right as often as B",
}


def lines(recipe: Recipe) -> list[str]:
    """Return the sections of a recipe that makes tasks, judges or reflects; nothing for any other."""
    made, asked = recycling(recipe), [c for c in (recipe.evaluate, recipe.test) if isinstance(c, AnswerConfig)]
    judge = next((c.judge for c in asked if c.judge is not None), None)
    reflect = next((c.reflect for c in reversed(asked) if c.reflect is not None), None)
    out = section("own tasks", _made(made, recipe.curriculum.generated, recipe)) if made is not None else []
    if made is not None or judge is not None:
        out += section("judge", _judge(judge))
    return out + (section("reflection", _reflection(reflect)) if reflect is not None else [])


def recycling(recipe: Recipe) -> RecycleConfig | None:
    """Return how attempts become tasks, if they do."""
    return recipe.reward.recycle if isinstance(recipe.reward, VerifyConfig) else None


def rows(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Return rows of (topic, TRL, verl, OpenRLHF): what their released versions have of it."""
    if recycling(recipe) is None:
        return []
    place = "- (a data.custom_cls dataset can add prompts in on_batch_end; experimental, makes none itself)"
    out = [("own tasks", NONE, place, "- (the release of SPARK is a fork)")]
    if recipe.curriculum.generated is not None and recipe.curriculum.generated.mode == "alternate":
        out.append(("two updates", NONE, NONE, "- (in that fork)"))
    return [*out, ("test time", NONE, NONE, NONE)]


def _made(r: RecycleConfig, draw: GeneratedDraw | None, recipe: Recipe) -> list[str]:
    rule = r.rule
    out = [
        f"of every step's attempts: at most {rule.judges} to judge (per group of attempts one: an answer where all are right "
        f"or all wrong; where they differ with probability {rule.pair_share:g} which of two is right, else one answer) and "
        f"{rule.reflections} to correct",
        BALANCE[rule.balance],
        f"{rule.confirm_share:.0%} of the attempts to correct are right and have to be kept; attempts cut by the length limit "
        + ("count as wrong" if r.keep_truncated else "are left out"),
        "reward as above, by a rule verifier: of a verdict against the label, of a correction against the parent's reference",
        f"waiting tasks: first in, first out, {_most(r.max_size, 'tasks')}, {_most(r.max_age, 'updates old')}",
    ]
    return [*out, _drawn(draw, recipe)] if draw is not None else out


def _drawn(draw: GeneratedDraw, recipe: Recipe) -> str:
    size = recipe.curriculum.group_size
    how = f"up to {draw.prompts} of them are drawn on top of every batch"
    if draw.mode == "alternate":
        how = f"once {draw.prompts} wait, every second step is made of them alone"
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in draw.shares.items())
    weights = recipe.update.arm_weights if isinstance(recipe.update, PolicyGradientConfig) else {}
    words = f"{how}{f' ({shares}, the rest by age)' if shares else ', the oldest first'}, {size} rollouts each; "
    words += "advantages are those of their own groups, never mixed with solving"
    extra = f"; weights of the loss: {', '.join(f'{a} {w:g}' for a, w in weights.items())}" if weights else ""
    return words + extra


def _judge(judge: JudgeConfig | None) -> list[str]:
    out = [
        "what the policy says of an answer is never a reward and labels nothing: it is asked to judge so that it learns to, when "
        "it is measured, and at test time"
    ]
    if judge is None:
        return [*out, "not measured (evaluate.judge is none)"]
    count = f"{judge.anchors} questions a kind" if judge.anchors else "all questions"
    return [
        *out,
        f"measured after every iteration on anchors ({count}, from validation tasks and their references), each asked with either "
        "verdict being right, pairs in both orders: balanced accuracy, .5 for one who always says the same",
        f"alarm, and nothing is promoted, when it falls more than {judge.drift_limit:g} below the champion's and the "
        f"{judge.confidence:.0%} interval of the paired difference lies below 0",
    ]


def _reflection(r: ReflectConfig) -> list[str]:
    out = [
        f"greedy answer, then at most {r.rounds} round(s): verdict and, unless it is Yes, a new answer to a prompt that shows "
        f"the old one; at most {r.max_calls} calls. An accepted answer is never changed; the last new answer is not judged",
        "reported beside the accuracy without it, which alone chooses a champion",
    ]
    if r.mode == "published":
        return [*out, "always, and an unreadable verdict asks for a new answer: a judge that guesses costs points"]
    return [
        *out,
        f"tried behind a judge whose balanced accuracy on single answers lies above {0.5 + r.margin:g} with its whole interval, "
        f"and used only where it then raised the score of the validation tasks by more than {r.least_gain:g} with its whole "
        "interval; an unreadable verdict keeps the answer",
    ]


def _most(limit: int, what: str) -> str:
    return f"at most {limit} {what}" if limit else f"any number of {what}" if what == "tasks" else "of any age"
