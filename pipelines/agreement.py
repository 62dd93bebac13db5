"""Settings that must agree between pieces: one stage would otherwise not see what another one did."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from instar.components.dataset_prep.config import FromScratch, TextConfig
from instar.components.dataset_prep.templates import ANSWER_STYLE
from instar.components.evaluate.config import AnswerConfig
from instar.components.generated.templates import KINDS, Wording, characters
from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.rollout.config import ProposeConfig, SampleConfig
from instar.components.update.config import PolicyGradientConfig
from instar.errors import ConfigError, nearest
from instar.pipelines import schedule, validation

if TYPE_CHECKING:
    from instar.pipelines.recipe import Recipe

PIECES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "test")


def check(recipe: Recipe) -> None:
    """Raise `ConfigError` for the first pair of pieces that do not agree."""
    _check_style(recipe)
    _check_generated(recipe)
    _check_judge(recipe)
    _check_delayed(recipe)
    _check_drawing(recipe)
    _check_minibatches(recipe)
    schedule.check(recipe)
    _check_precision(recipe)
    _check_splits(recipe)
    _check_arms(recipe)
    validation.check(recipe)


def _check_style(recipe: Recipe) -> None:
    if not isinstance(recipe.dataset_prep, TextConfig):
        return
    style = ANSWER_STYLE[recipe.dataset_prep.pools.template]
    for name in ("reward", "evaluate", "test"):
        piece = getattr(recipe, name)
        if isinstance(piece, VerifyConfig | AnswerConfig) and piece.style != style:
            raise ConfigError(
                expected=f"'{style}', the style in which template '{recipe.dataset_prep.pools.template}' asks for answers",
                found=f"'{piece.style}'",
                where=f"recipe.{name}.style",
                action=f"set {name}.style={style}, or choose another dataset_prep.pools.template",
            )


def _check_generated(recipe: Recipe) -> None:
    """Refuse generated tasks that nobody makes or tries, in a wording that is not read, or behind a filter that counts slots."""
    draw = recipe.curriculum.generated
    made = recipe.reward.recycle if isinstance(recipe.reward, VerifyConfig) else None
    if (draw is None) != (made is None):
        raise ConfigError(
            expected="reward.recycle, which makes generated tasks, together with curriculum.generated, which draws them",
            found="reward.recycle alone" if made else "curriculum.generated alone",
            where="recipe.curriculum.generated",
            action="set both, for example curriculum.generated.prompts and reward.recycle.wording, or none",
        )
    if made is None or draw is None or not isinstance(recipe.reward, VerifyConfig):
        return
    _need_template(recipe, made.wording)
    _need_alphabet(recipe, made.wording)
    most = _most_waiting(made)
    if draw.mode == "alternate" and draw.prompts > most:
        raise ConfigError(
            expected=f"curriculum.generated.prompts <= {most}, the most generated tasks that can wait",
            found=f"{draw.prompts}",
            where="recipe.curriculum.generated.prompts",
            action=f"set curriculum.generated.prompts to {most} or less, or raise reward.recycle.max_size, max_age or rule",
        )
    kept = recipe.update.filter.keep_prompts if isinstance(recipe.update, PolicyGradientConfig) else 0
    if kept:
        raise ConfigError(
            expected="update.filter.keep_prompts=0: generated slots come last, and the first so many groups would leave them out",
            found=f"{kept}",
            where="recipe.update.filter",
            action="set it to 0, or train without curriculum.generated",
        )


def _most_waiting(made: RecycleConfig) -> int:
    """Return how many tasks the cache can hold: all of the last `max_age` steps, and no more than `max_size`."""
    limits = [made.max_size] if made.max_size else []
    limits += [(made.rule.judges + made.rule.reflections) * made.max_age] if made.max_age else []
    return min(limits, default=sys.maxsize)


def _check_judge(recipe: Recipe) -> None:
    """Refuse a judge that is measured without anchors, or in another wording than theirs."""
    for name in ("evaluate", "test"):
        piece = getattr(recipe, name)
        if not isinstance(piece, AnswerConfig) or piece.judge is None:
            continue
        anchors = recipe.dataset_prep.anchors if isinstance(recipe.dataset_prep, TextConfig) else None
        if anchors is None or anchors.wording != piece.judge.wording:
            raise ConfigError(
                expected=f"anchors in wording '{piece.judge.wording}', by which {name}.judge measures the judge",
                found=f"wording '{anchors.wording}'" if anchors else "none",
                where=f"recipe.{name}.judge",
                action=f"set dataset_prep.anchors.wording={piece.judge.wording}, or {name}.judge=none and {name}.reflect=none",
            )


TEMPLATES_OF = {"terse": ("terse",), "few_shot": ("few_shot",), "words": ("boxed", "base_chat", "chat")}
"""Wording of generated tasks -> templates of the tasks they are made from."""


def _need_template(recipe: Recipe, wording: Wording) -> None:
    template = recipe.dataset_prep.pools.template if isinstance(recipe.dataset_prep, TextConfig) else ""
    stop = recipe.rollout.stop if isinstance(recipe.rollout, SampleConfig) else ()
    fitting = next((name for name, fits in TEMPLATES_OF.items() if template in fits), "")
    if template not in TEMPLATES_OF[wording] or (wording == "words" and stop):
        raise ConfigError(
            expected=f"template {' or '.join(TEMPLATES_OF[wording])}"
            + (" and no stop strings" if wording == "words" else ""),
            found=f"template '{template}', stop {list(stop)}",
            where="recipe.reward.recycle.wording",
            action=f"set reward.recycle.wording={fitting}"
            if fitting and fitting != wording
            else "take out the stop strings",
        )


def _need_alphabet(recipe: Recipe, wording: Wording) -> None:
    """Refuse a character model that cannot read or write what generated tasks are made of: unknown characters become padding."""
    initial = recipe.dataset_prep.initial if isinstance(recipe.dataset_prep, TextConfig) else None
    if not isinstance(initial, FromScratch):
        return
    missing = characters(wording) - set(initial.model.alphabet)
    if missing:
        raise ConfigError(
            expected=f"an alphabet with every character of wording '{wording}'",
            found=f"'{initial.model.alphabet}' without '{''.join(sorted(missing))}'",
            where="recipe.dataset_prep.initial.model.alphabet",
            action=f"set dataset_prep.initial.model.alphabet='{initial.model.alphabet}{''.join(sorted(missing))}'",
        )


def _check_delayed(recipe: Recipe) -> None:
    """Refuse a return-to-go that means one thing where a policy learns and another where it acts."""
    found = {name: getattr(recipe, name).delayed for name in PIECES if hasattr(getattr(recipe, name), "delayed")}
    if len(set(found.values())) > 1:
        raise ConfigError(
            expected=f"one value of delayed in {', '.join(found)}",
            found=", ".join(f"{name}.delayed={value}" for name, value in found.items()),
            where="recipe",
            action="set all of them, or none",
        )


def _check_drawing(recipe: Recipe) -> None:
    """Refuse draws that the update would not use, and several rollouts of a task where all would be the same."""
    drawn, update = recipe.curriculum, recipe.update
    kept = update.filter if isinstance(update, PolicyGradientConfig) else None
    fits = kept is not None and kept.kind != "none" and kept.keep_prompts == drawn.prompts
    if drawn.slots > drawn.prompts and not fits:
        raise ConfigError(
            expected=f"an update filter that keeps {drawn.prompts} of the {drawn.slots} prompts drawn",
            found=f"filter '{kept.kind}' with keep_prompts={kept.keep_prompts}"
            if kept
            else "an update without a filter",
            where="recipe.update.filter",
            action=f"set update.filter.kind=zero_variance and update.filter.keep_prompts={drawn.prompts}, "
            "or curriculum.oversample=1",
        )
    if isinstance(update, PolicyGradientConfig) and update.min_group > drawn.group_size:
        raise ConfigError(
            expected=f"update.min_group <= {drawn.group_size}, the rollouts of a prompt: smaller groups are dropped",
            found=str(update.min_group),
            where="recipe.update.min_group",
            action=f"set update.min_group to at most {drawn.group_size}, or a larger curriculum.group_size",
        )
    if isinstance(recipe.rollout, ProposeConfig) and drawn.group_size != 1:
        raise ConfigError(
            expected="one rollout per task: a deterministic policy does the same each time",
            found=f"group_size {drawn.group_size}",
            where="recipe.curriculum.group_size",
            action="set curriculum.group_size=1 and draw more tasks instead",
        )


def _check_minibatches(recipe: Recipe) -> None:
    """Refuse more minibatches than groups, which are dealt whole: there would be fewer optimiser steps than asked for."""
    update, drawn = recipe.update, recipe.curriculum
    if not isinstance(update, PolicyGradientConfig):
        return
    most = (update.filter.keep_prompts or drawn.slots) + (drawn.generated.prompts if drawn.generated else 0)
    if update.minibatches > most:
        raise ConfigError(
            expected=f"update.minibatches <= {most}, the groups of a batch: a group is never split",
            found=str(update.minibatches),
            where="recipe.update.minibatches",
            action=f"set update.minibatches to at most {most}, or a larger curriculum.prompts",
        )


def _check_precision(recipe: Recipe) -> None:
    """Refuse a trainer in bfloat16 behind a sampler that does not: one rounds a float32 policy, the other reads it as it is."""
    update, rollout = recipe.update, recipe.rollout
    if not (isinstance(update, PolicyGradientConfig) and isinstance(rollout, SampleConfig)):
        return
    if update.dtype == "bfloat16" and rollout.engine.dtype != "bfloat16":
        raise ConfigError(
            expected="rollout.engine.dtype=bfloat16, as update.dtype: both have to read a float32 policy rounded",
            found=f"'{rollout.engine.dtype}'",
            where="recipe.rollout.engine.dtype",
            action="set rollout.engine.dtype=bfloat16 (and evaluate.engine.dtype, test.engine.dtype), or update.dtype=float32",
        )


def _check_splits(recipe: Recipe) -> None:
    """Refuse an evaluation of pools that are never made, and one without `val`, which the gate reads."""
    prep = recipe.dataset_prep
    made = {"val", "id"}
    if isinstance(prep, TextConfig):
        arms = prep.pools.arms
        found = {"val": any(a.val for a in arms)}
        found |= {split: any(a.test and a.ood == (split == "ood") for a in arms) for split in ("id", "ood")}
        made = {split for split, some in found.items() if some}
    for name in ("evaluate", "test"):
        splits = getattr(recipe, name).splits
        missing = [split for split in splits if split not in made]
        if missing or (name == "evaluate" and "val" not in splits):
            raise ConfigError(
                expected=f"splits of {', '.join(sorted(made))}, which dataset_prep makes"
                if missing
                else "split val among them: the gate reads it",
                found=", ".join(missing or splits),
                where=f"recipe.{name}.splits",
                action=f"take {', '.join(missing)} out of {name}.splits" if missing else f"add val to {name}.splits",
            )


def _check_arms(recipe: Recipe) -> None:
    """Refuse a weight for an arm that no rollout is of: it would change nothing."""
    if not (isinstance(recipe.update, PolicyGradientConfig) and isinstance(recipe.dataset_prep, TextConfig)):
        return
    names = [arm.name for arm in recipe.dataset_prep.pools.arms if arm.train]
    names += KINDS if recipe.curriculum.generated is not None else ()
    unknown = sorted(set(recipe.update.arm_weights) - set(names))
    if unknown:
        raise ConfigError(
            expected="arms that are trained on",
            found=", ".join(unknown),
            where="recipe.update.arm_weights",
            action=nearest(unknown[0], names),
        )
