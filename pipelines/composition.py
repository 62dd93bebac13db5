"""Whether the pieces of a recipe fit: every column that a strategy reads is filled by some piece.

A chain that does not close would still run and learn nothing, or the wrong thing; here it is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from instar.components.columns import Piece
from instar.components.curriculum.strategies import required_columns
from instar.components.dataset_prep.config import TextConfig
from instar.components.dataset_prep.templates import ANSWER_STYLE
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.rollout.config import ProposeConfig
from instar.components.update.config import PolicyGradientConfig
from instar.errors import ConfigError
from instar.rows import ArmStatsRow, BatchRow
from instar.schema import fields

if TYPE_CHECKING:
    from instar.pipelines.recipe import Recipe

PIECES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "test")
ALWAYS = frozenset(f"batch.{field.name}" for field in fields(BatchRow)) | frozenset(
    f"stats.{field.name}" for field in fields(ArmStatsRow) if not field.name.startswith("sum_")
)
"""Filled whatever the pieces are: the batch by any curriculum, counts of the statistics by any update."""


def check(recipe: Recipe) -> None:
    """Raise `ConfigError` naming the first column that is missing, who reads it and who could fill it."""
    given = ALWAYS | {column for name in PIECES for column in provides(getattr(recipe, name))}
    for name in PIECES:
        missing = sorted(requires(getattr(recipe, name)) - given)
        if missing:
            able = [f"{who}.strategy={option}" for who, option in providers(missing[0], type(recipe))]
            raise ConfigError(
                expected=f"column {missing[0]}, which {name} '{getattr(recipe, name).strategy}' reads",
                found="no piece of the recipe that fills it",
                where=f"recipe.{name}",
                action=f"take one that does: {', '.join(able)}" if able else f"choose another {name}",
            )
    _check_style(recipe)
    _check_delayed(recipe)
    _check_drawing(recipe)


def requires(piece: Any) -> frozenset[str]:
    """Return the columns that a piece reads."""
    if isinstance(piece, Piece):
        return piece.requires()
    return frozenset(f"stats.{column}" for column in required_columns(piece))


def provides(piece: Any) -> frozenset[str]:
    """Return the columns that a piece fills."""
    return piece.provides() if isinstance(piece, Piece) else frozenset()


def providers(column: str, recipe: type[Recipe]) -> Iterator[tuple[str, str]]:
    """Yield (piece, strategy) of every strategy that can fill `column`."""
    for name in PIECES:
        for option in alternatives(get_type_hints(recipe)[name]):
            if column in getattr(option, "PROVIDES", ()):
                yield name, strategy_of(option)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the configuration classes of a field."""
    return get_args(kind) if get_origin(kind) is Union or not isinstance(kind, type) else (kind,)


def strategy_of(option: Any) -> str:
    """Return the name of a strategy from its configuration class."""
    return str(get_args(get_type_hints(option)["strategy"])[0])


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
    if isinstance(recipe.rollout, ProposeConfig) and drawn.group_size != 1:
        raise ConfigError(
            expected="one rollout per task: a deterministic policy does the same each time",
            found=f"group_size {drawn.group_size}",
            where="recipe.curriculum.group_size",
            action="set curriculum.group_size=1 and draw more tasks instead",
        )
