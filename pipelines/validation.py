"""The validation tasks that a recipe's gate rests on: how many there will be, and whether they can tell anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instar.components.dataset_prep.config import TextConfig
from instar.errors import ConfigError
from instar.pipelines.gate import SPLIT

if TYPE_CHECKING:
    from instar.pipelines.recipe import Recipe


def sizes(recipe: Recipe) -> dict[str, int]:
    """Return arm -> validation tasks that are evaluated, of arms that have any. Episodes ask for one return, one arm."""
    prep = recipe.dataset_prep
    if isinstance(prep, TextConfig):
        planned = {arm.name: arm.val for arm in prep.pools.arms if arm.val}
    else:
        planned = {"target": prep.val_episodes}
    most = recipe.evaluate.tasks_per_arm
    return {arm: min(count, most) if most else count for arm, count in planned.items()}


def check(recipe: Recipe) -> None:
    """Raise `ConfigError` when the gate could never tell: it would hold at every iteration, and the base stay champion."""
    found = sizes(recipe)
    if recipe.gate.select == "last" or not recipe.iterations or SPLIT not in recipe.evaluate.splits or not found:
        return
    small = min(found, key=lambda arm: found[arm])
    least, total = recipe.evaluate.min_pairs, sum(found.values())
    if total < least or found[small] < 2:
        raise ConfigError(
            expected=f"at least {least} validation tasks and two in every arm: the gate compares policies on them",
            found=f"{total}, of which {found[small]} in arm '{small}'",
            where="recipe.evaluate",
            action="raise the val pools (or val_episodes) or evaluate.tasks_per_arm, lower evaluate.min_pairs, or set "
            "gate.select=last, which compares nothing",
        )
