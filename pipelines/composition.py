"""Whether the pieces of a recipe fit: every column that a strategy reads is filled by some piece.

A chain that does not close would still run and learn nothing, or the wrong thing; here it is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from instar.components.columns import Piece
from instar.components.curriculum.strategies import required_columns
from instar.errors import ConfigError
from instar.pipelines import agreement
from instar.pipelines.agreement import PIECES
from instar.rows import ArmStatsRow, BatchRow
from instar.schema import fields

if TYPE_CHECKING:
    from instar.pipelines.recipe import Recipe

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
    agreement.check(recipe)


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
