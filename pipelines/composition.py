"""Whether the pieces of a recipe fit: every column that a strategy reads is written by the piece before it.

A chain that does not close would still run and learn nothing, or the wrong thing; here it is refused when it is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instar.components.curriculum.strategies import required_columns
from instar.components.dataset_prep.templates import ANSWER_STYLE
from instar.components.update.config import Config as UpdateConfig
from instar.errors import ConfigError
from instar.rows import ArmStatsRow
from instar.schema import fields

if TYPE_CHECKING:
    from instar.pipelines.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raise `ConfigError` naming the first piece that does not get what it needs."""
    missing = sorted(required_columns(recipe.curriculum) - provided_columns(recipe.update))
    if missing:
        raise ConfigError(
            expected=f"columns {missing} of ArmStats, which curriculum '{recipe.curriculum.strategy}' reads",
            found=f"an update that does not provide them (update.min_group={recipe.update.min_group})",
            where="recipe.curriculum",
            action="set update.min_group=2 or more, or choose another curriculum.signal",
        )
    style = ANSWER_STYLE[recipe.dataset_prep.pools.template]
    for name in ("reward", "evaluate", "test"):
        found = getattr(recipe, name).style
        if found != style:
            raise ConfigError(
                expected=f"'{style}', the style in which template '{recipe.dataset_prep.pools.template}' asks for answers",
                found=f"'{found}'",
                where=f"recipe.{name}.style",
                action=f"set {name}.style={style}, or choose another dataset_prep.pools.template",
            )
    _check_oversampling(recipe)


def provided_columns(update: UpdateConfig) -> frozenset[str]:
    """Return the `ArmStats` columns that carry information under this update."""
    columns = frozenset(field.name for field in fields(ArmStatsRow))
    return columns if update.min_group >= 2 else columns - {"sum_abs_advantage_correct"}


def _check_oversampling(recipe: Recipe) -> None:
    wanted, kept = recipe.curriculum.prompts, recipe.update.filter
    drawn_more = recipe.curriculum.slots > wanted
    if drawn_more and (kept.kind == "none" or kept.keep_prompts != wanted):
        raise ConfigError(
            expected=f"an update filter that keeps {wanted} of the {recipe.curriculum.slots} prompts drawn",
            found=f"filter '{kept.kind}' with keep_prompts={kept.keep_prompts}",
            where="recipe.update.filter",
            action=f"set update.filter.kind=zero_variance and update.filter.keep_prompts={wanted}, or curriculum.oversample=1",
        )
