"""Checks that the pieces of a recipe fit together.

Some piece must fill every column that a strategy reads, and no piece may object.

Without this check, such a recipe would still run. It would learn nothing, or the wrong thing. Here it is refused when it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from instar.components.dataset_prep.stage import reads_sources
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.piece import Piece
    from instar.pipelines.recipe import Recipe

PIECES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "test")
"""Fields of a recipe that hold a strategy, in the order of the loop."""


def pieces(recipe: Recipe) -> dict[str, Piece]:
    """Return the configuration of every strategy of a recipe, by its field."""
    return {name: getattr(recipe, name) for name in PIECES}


def check(recipe: Recipe) -> None:
    """Raise `ConfigError` for the first column that no piece fills. If there is none, raise it for the first piece that objects."""
    _check_columns(recipe)
    _check_sources(recipe)
    for name, piece in pieces(recipe).items():
        piece.check(recipe, name)
    recipe.gate.check(recipe)


def _check_columns(recipe: Recipe) -> None:
    """Raise `ConfigError` for the first missing column. The error names the column, who reads it, and who could fill it."""
    columns = frozenset[str]().union(*(piece.provides() for piece in pieces(recipe).values()))
    for name, piece in pieces(recipe).items():
        missing = sorted(piece.requires() - columns)
        if missing:
            able = [f"{who}.strategy={option}" for who, option in providers(missing[0], type(recipe))]
            raise ConfigError(
                expected=f"column {missing[0]}, which {name} '{getattr(recipe, name).strategy}' reads",
                found="no piece of the recipe fills it",
                where=f"recipe.{name}",
                action=f"take a piece that fills it: {', '.join(able)}" if able else f"choose another {name}",
            )


def _check_sources(recipe: Recipe) -> None:
    """Refuse sources that nothing would read."""
    if recipe.sources and not reads_sources(recipe.dataset_prep):
        raise ConfigError(
            expected="none: this strategy of dataset_prep does not learn from other evolutions",
            found=f"{len(recipe.sources)}, first {recipe.sources[0]}",
            where="recipe.sources",
            action="leave them out, or choose a dataset_prep that reads them",
        )


def providers(column: str, recipe: type[Recipe]) -> Iterator[tuple[str, str]]:
    """Yield (piece, strategy) of every strategy that can fill `column`."""
    for name in PIECES:
        for option in alternatives(get_type_hints(recipe)[name]):
            if column in option.PROVIDES:
                yield name, strategy_of(option)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the configuration classes of a field."""
    return get_args(kind) if get_origin(kind) is Union or not isinstance(kind, type) else (kind,)


def strategy_of(option: Any) -> str:
    """Return the name of a strategy from its configuration class."""
    return str(get_args(get_type_hints(option)["strategy"])[0])
