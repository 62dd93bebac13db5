"""Compares the learning-rate schedule with the length of the run. A recipe's optimiser steps are known when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar.components.piece import RecipeView
from instar.components.update.rate import lr_factor
from instar.errors import ConfigError


def planned_steps(recipe: RecipeView) -> int:
    """Return the largest number of optimiser steps that the whole evolution can take."""
    return recipe.iterations * recipe.inner_steps * recipe.update.steps_per_update(recipe)


def check_schedule(recipe: RecipeView) -> None:
    """Raise `ConfigError` if the learning rate reaches 0 before the run ends, because later steps would change nothing."""
    update, planned = recipe.update, planned_steps(recipe)
    if update.schedule == "constant" or update.total_steps >= planned:
        return
    raise ConfigError(
        expected=f"update.total_steps >= {planned}, {_sum(recipe)}",
        found=f"{update.total_steps}: the learning rate is 0 in the {planned - update.total_steps} steps after it",
        where="recipe.update.total_steps",
        action=f"set update.total_steps={planned}, fewer iterations, or update.schedule=constant",
    )


def check_warmup(recipe: RecipeView, changes: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` if a user sets a warm-up that is longer than the run. No step would have the rate that is set.

    `changes` are the user's. A warm-up that the recipe itself has is not refused.
    """
    update, planned, of_update = recipe.update, planned_steps(recipe), changes.get("update")
    asked = isinstance(of_update, Mapping) and "warmup_steps" in of_update
    if asked and planned and update.warmup_steps > planned:
        raise ConfigError(
            expected=f"update.warmup_steps <= {planned}, {_sum(recipe)}",
            found=f"{update.warmup_steps}: no step reaches the learning rate that is set",
            where=f"{where}.update.warmup_steps",
            action=f"set update.warmup_steps to at most {planned}, or more iterations",
        )


def outlook(recipe: RecipeView) -> str:
    """Return a sentence on what the run leaves out of its schedule. If it leaves nothing out, the sentence is empty."""
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
    """Return where the number of planned steps comes from."""
    return (
        f"the optimiser steps of the run: {recipe.iterations} iterations x {recipe.inner_steps} inner steps "
        f"x {recipe.update.steps_per_update(recipe)} per batch"
    )
