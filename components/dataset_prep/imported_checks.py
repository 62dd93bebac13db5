"""What a recipe must have so that imported rows fit it. A recipe that does not fit is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instar.components.dataset_prep.imported_config import ImportedConfig
from instar.components.dataset_prep.initial import FromScratch
from instar.components.piece import RecipeView
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.dataset_prep.config import TextConfig

BARE = ("whole", "line")
"""Styles of an answer without marks, as a character model writes it."""


def check(config: TextConfig, pools: ImportedConfig, recipe: RecipeView, name: str) -> None:
    """Raise `ConfigError` for the first setting that does not fit the rows."""
    _check_styles(pools, recipe)
    _check_answers(pools, recipe)
    if isinstance(config.initial, FromScratch):
        _check_characters(config.initial, pools, recipe, name)


def _check_styles(pools: ImportedConfig, recipe: RecipeView) -> None:
    """Refuse styles that differ, because then the reward and the evaluation would read other answers."""
    pieces: dict[str, Any] = {"reward": recipe.reward, "evaluate": recipe.evaluate, "test": recipe.test}
    pieces |= {} if pools.probe is None else {"dataset_prep.pools.probe": pools.probe}
    styles = {name: piece.style for name, piece in pieces.items() if hasattr(piece, "style")}
    if len(set(styles.values())) > 1:
        raise ConfigError(
            expected=f"one style of answers in {', '.join(styles)}",
            found=", ".join(f"{name}.style={style}" for name, style in styles.items()),
            where="recipe.reward.style",
            action=f"set {' and '.join(f'{name}.style' for name in styles)} to the same style",
        )


def _check_answers(pools: ImportedConfig, recipe: RecipeView) -> None:
    """Refuse rows without text answers where answers are compared with references."""
    reward = recipe.reward
    if pools.answers != "text" and reward.strategy == "verify" and not (reward.functions or reward.scorer):
        raise ConfigError(
            expected="a text as answer in every row, because the reward compares texts",
            found={"none": "no answers", "nested": "answers that are lists, structs or null"}[pools.answers],
            where="recipe.dataset_prep.pools.answers",
            action="name the column with --answer, or pass a reward function of your own with --reward, or a model with --scorer",
        )


def _check_characters(initial: FromScratch, pools: ImportedConfig, recipe: RecipeView, name: str) -> None:
    """Refuse rows that a character model cannot read, and styles that it would never write."""
    where, other = f"recipe.{name}.initial", "pass --model, or take --scale small, which starts from a pretrained model"
    if pools.form != "text":
        expected = "prompts of form text, because a character model has no chat template"
        raise ConfigError(expected=expected, found=f"form {pools.form}", where=where, action=other)
    missing = sorted(set(pools.alphabet) - set(initial.model.alphabet))
    if missing or not pools.alphabet:
        shown = "".join(missing)[:40] if missing else "more characters than a character model can have"
        expected = "an alphabet with every character of the rows"
        raise ConfigError(expected=expected, found=f"none for {shown!r}", where=f"{where}.model.alphabet", action=other)
    style = recipe.reward.style if recipe.reward.strategy == "verify" else "whole"
    if style not in BARE:
        expected = f"style {' or '.join(BARE)}, because a new character model writes bare answers as in the rows"
        raise ConfigError(expected=expected, found=style, where="recipe.reward.style", action=other)
