"""A recipe on a user's own rows: the pools are replaced, and with them every setting that was chosen for the recipe's own tasks.

What a method is about stays: its curriculum, its update, its loop. What follows from the rows is taken from them: the style of
answers, how long an answer may be, the characters of a new model, what its warm start imitates, and which pools are evaluated.
Rows without arms and levels get levels from a probe of the initial policy. `--set` still changes each of these afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Literal

from instar.components.dataset_prep.config import FromScratch, ImportedConfig, TextConfig
from instar.components.dataset_prep.imported_config import ProbeConfig
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import SampleConfig
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe

STYLE: Literal["whole"] = "whole"
MOST_CONTEXT = 512
"""Most characters of prompt and answer that a new character model is made for. Longer ones take minutes a step on two cores."""
SHOWN_SHARE = 0.25
"""Share of the training rows that the warm start imitates where the rows have no levels."""
SHOWN_STEPS = 80
"""Most steps of that warm start. On 495 conversions of units, 80 steps solve a third of the validation tasks, and the evolution
solves two thirds after forty updates. After 300 steps nothing was left to learn."""

MOST_PASSES, LEAST_STEPS = 60, 20
"""How often the warm start may imitate a row of the easiest level, and the least number of its steps. A model that knows a few rows
by heart answers all others wrongly, and nothing is left to learn from."""


def adapt(recipe: Recipe, pools: ImportedConfig) -> Recipe:
    """Return `recipe` on imported rows. Raises `ConfigError` where the method or the scale cannot use such rows."""
    prep, rollout, reward = recipe.dataset_prep, recipe.rollout, recipe.reward
    evaluate, test = recipe.evaluate, recipe.test
    if not (
        isinstance(prep, TextConfig)
        and isinstance(rollout, SampleConfig)
        and isinstance(reward, VerifyConfig)
        and isinstance(evaluate, AnswerConfig)
        and isinstance(test, AnswerConfig)
    ):
        raise ConfigError(
            expected="a recipe that answers prompts",
            found=f"{recipe.name}, which learns from logged episodes",
            where="--tasks",
            action="take sec or spark",
        )
    _refuse_recycling(recipe, reward)
    initial = _from_scratch(prep.initial, pools) if isinstance(prep.initial, FromScratch) else prep.initial
    stop = () if pools.answers_have_lines else rollout.stop
    short = isinstance(initial, FromScratch) or (rollout.stop and pools.answers == "text")
    limit = pools.longest_answer + 1 if short else rollout.max_new_tokens
    if not pools.levels and len(pools.arms) == 1:
        probe = ProbeConfig(max_new_tokens=limit, stop=stop, style=STYLE, engine=rollout.engine)
        pools = replace(
            pools, probe=replace(probe, functions=reward.functions, sandbox=reward.sandbox, scorer=reward.scorer)
        )
    return replace(
        recipe,
        dataset_prep=replace(prep, pools=pools, initial=initial),
        rollout=replace(rollout, max_new_tokens=limit, stop=stop),
        reward=replace(reward, style=STYLE),
        evaluate=_evaluated(evaluate, ("val",), recipe, pools, limit, stop),
        test=_evaluated(
            test, tuple(s for s in ("id", "ood") if _has(pools, s)) or ("val",), recipe, pools, limit, stop
        ),
    )


def _refuse_recycling(recipe: Recipe, reward: VerifyConfig) -> None:
    """Refuse a method that judges answers: its prompts about answers need templates that fit the tasks."""
    if reward.recycle is not None:
        raise ConfigError(
            expected="a recipe that does not turn attempts into tasks of judging",
            found=f"{recipe.name}: its anchors and judging tasks are written for its own tasks, and a wrong answer to a task of "
            "yours cannot be made up by changing a digit",
            where="--tasks",
            action="take sec",
        )


def _has(pools: ImportedConfig, split: str) -> bool:
    return any(sizes[split] for sizes in pools.sizes().values())


def _from_scratch(initial: FromScratch, pools: ImportedConfig) -> FromScratch:
    """Return a new character model with the characters of the rows, taught on the easiest arms."""
    context = pools.longest_prompt + pools.longest_answer + 1
    other = "pass --model, or take --scale small, which starts from a pretrained model"
    if pools.answers != "text":
        raise ConfigError(
            expected="rows with a text as answer, because the start of a new model imitates some of them",
            found={"none": "no answers", "nested": "answers that are lists, structs or null"}[pools.answers],
            where="--tasks",
            action=f"name the column with --answer, or {other}",
        )
    if not pools.alphabet or context > MOST_CONTEXT:
        size = (
            f"{context} characters" if pools.alphabet else "more different characters than a character model can have"
        )
        raise ConfigError(
            expected=f"prompts with answers of at most {MOST_CONTEXT} characters for a new character model",
            found=size,
            where="--tasks",
            action=other,
        )
    warm_start = replace(initial.warm_start, arms=pools.easiest(), generated=None)
    if pools.graded():
        shown = sum(arm.train for arm in pools.arms if arm.name in warm_start.arms)
        most = max(LEAST_STEPS, MOST_PASSES * shown // warm_start.batch)
        warm_start = replace(warm_start, steps=min(most, warm_start.steps))
    else:
        warm_start = replace(warm_start, share=SHOWN_SHARE, steps=min(SHOWN_STEPS, warm_start.steps))
    model = replace(initial.model, alphabet=pools.alphabet, max_length=max(initial.model.max_length, context))
    return replace(initial, model=model, warm_start=warm_start)


def _evaluated(
    config: AnswerConfig,
    splits: tuple[str, ...],
    recipe: Recipe,
    pools: ImportedConfig,
    limit: int,
    stop: tuple[str, ...],
) -> AnswerConfig:
    """Return an evaluation of about as many validation tasks as the recipe has, spread over the arms of the rows."""
    num_tasks = sum(recipe.evaluate.validation_sizes(recipe).values())
    arms = sum(sizes["val"] > 0 for sizes in pools.sizes().values())
    return replace(
        config,
        splits=splits,
        style=STYLE,
        max_new_tokens=limit,
        stop=stop,
        tasks_per_arm=max(2, ceil(num_tasks / max(1, arms))),
        judge=None,
        reflect=None,
    )
