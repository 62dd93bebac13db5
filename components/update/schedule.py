"""The learning-rate schedule against the run it belongs to: how many optimiser steps a recipe takes is known when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar.components.piece import RecipeView
from instar.components.update.rate import lr_factor
from instar.errors import ConfigError


def planned_steps(recipe: RecipeView) -> int:
    """Return the optimiser steps of the whole evolution at most."""
    return recipe.iterations * recipe.inner_steps * recipe.update.steps_per_update(recipe)


def check_schedule(recipe: RecipeView) -> None:
    """Raise `ConfigError` for a schedule that reaches 0 before the run ends: all steps after it would change nothing."""
    update, planned = recipe.update, planned_steps(recipe)
    if update.schedule == "constant" or update.total_steps >= planned:
        return
    raise ConfigError(
        expected=f"update.total_steps >= {planned}, {_sum(recipe)}",
        found=f"{update.total_steps}: the rate is 0 in the {planned - update.total_steps} steps after it",
        where="recipe.update.total_steps",
        action=f"set update.total_steps={planned}, fewer iterations, or update.schedule=constant",
    )


def check_warmup(recipe: RecipeView, given: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` for a warm-up that is given and longer than the run: no step would have the rate that is set."""
    update, planned, told = recipe.update, planned_steps(recipe), given.get("update")
    asked = isinstance(told, Mapping) and "warmup_steps" in told
    if asked and planned and update.warmup_steps > planned:
        raise ConfigError(
            expected=f"update.warmup_steps <= {planned}, {_sum(recipe)}",
            found=f"{update.warmup_steps}: no step has the rate that is set",
            where=f"{where}.update.warmup_steps",
            action=f"set update.warmup_steps to at most {planned}, or more iterations",
        )


def outlook(recipe: RecipeView) -> str:
    """Return in a sentence what the run leaves undone of its schedule; nothing where it leaves nothing."""
    update, planned = recipe.update, planned_steps(recipe)
    if not planned:
        return ""
    share = f"the last of at most {planned} optimiser steps has {lr_factor(update, planned - 1):.3g} of update.lr"
    if update.warmup_steps > planned:
        return f"the warm-up of {update.warmup_steps} steps does not end in this run: {share}"
    if update.schedule != "constant" and update.total_steps > planned:
        return f"the {update.schedule} schedule reaches 0 at step {update.total_steps}, after this run: {share}"
    return ""


def _sum(recipe: RecipeView) -> str:
    return (
        f"the optimiser steps of the run: {recipe.iterations} iterations x {recipe.inner_steps} inner steps "
        f"x {recipe.update.steps_per_update(recipe)} per batch"
    )
