"""`instar explain`: the resolved objective of a recipe as formulas in plain text, and how other code spells it.

Every line is derived from the configuration that runs.
"""

from __future__ import annotations

from instar import config as configs
from instar.cli.explain.continuous import lines as control_lines
from instar.cli.explain.text import lines as text_lines
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines.recipe import Recipe

__all__ = ["explain"]


def explain(recipe: Recipe) -> str:
    """Return the explanation as text of at most 120 columns, ending in the options of other code that say the same."""
    head = f"{recipe.name} at scale {recipe.scale} ({recipe.paper}), "
    tail = f"digest {configs.digest(recipe)[:12]}"
    match recipe.update:
        case PolicyGradientConfig():
            lines = [f"{head}update preset '{recipe.update.preset}', {tail}", "", *text_lines(recipe, recipe.update)]
        case SequenceConfig():
            lines = [f"{head}{tail}", "", *control_lines(recipe, recipe.update)]
    return "\n".join(lines)
