"""The subject of a plan: a recipe that samples text, a number of GPUs and the size of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from instar.components.dataset_prep.config import TextConfig
from instar.components.evaluate.config import AnswerConfig
from instar.components.rollout.config import SampleConfig
from instar.components.update.config import PolicyGradientConfig
from instar.errors import ConfigError
from instar.pipelines.cost.constants import Constants
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import Node


@dataclass(frozen=True, kw_only=True)
class TextPieces:
    """The pieces of a recipe whose cost can be predicted, because they move tokens through a language model."""

    dataset_prep: TextConfig
    rollout: SampleConfig
    update: PolicyGradientConfig
    evaluate: AnswerConfig


def text_pieces(recipe: Recipe) -> TextPieces:
    """Return the pieces of a recipe that samples text. Raises `ConfigError` for any other recipe: its cost is not modelled."""
    match recipe:
        case Recipe(
            dataset_prep=TextConfig() as prep,
            rollout=SampleConfig() as rollout,
            update=PolicyGradientConfig() as update,
            evaluate=AnswerConfig() as evaluate,
        ):
            return TextPieces(dataset_prep=prep, rollout=rollout, update=update, evaluate=evaluate)
    pieces = (recipe.dataset_prep, recipe.rollout, recipe.update, recipe.evaluate)
    raise ConfigError(
        expected="a recipe that samples text and learns from it by policy gradient, because a plan counts tokens",
        found=f"{recipe.name} with {', '.join(piece.strategy for piece in pieces)}",
        where="instar plan",
        action="run one iteration and read `Seconds per stage` and `Cost` in its report.html",
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prediction. 0 GPUs mean CPU pods, and `params` is the number of the policy's parameters.

    Predicted seconds of work are multiplied by `scale`, so that they agree with a measured iteration.
    """

    recipe: Recipe
    gpus: int
    params: float
    scale: float
    constants: Constants

    @cached_property
    def text(self) -> TextPieces:
        """Return the recipe's pieces with their types for text."""
        return text_pieces(self.recipe)

    @property
    def machines(self) -> int:
        """Number of machines that have these GPUs."""
        return max(1, math.ceil(self.gpus / self.constants.gpus_per_node))

    def gang(self, node: Node) -> int:
        """Return how many machines a node of the graph runs on at once: all of them if it trains, otherwise 1."""
        return self.machines if node.kind in ("fused", "update") else 1
