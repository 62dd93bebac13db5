"""`instar explain`: the resolved objective of a recipe as formulas in plain text, and how other code spells it.

Every line is derived from the configuration that runs. Each piece says its own lines, by section (`Piece.explain`); here
they are put in order, wrapped, and followed by a table of the options of other code that say the same.
"""

from __future__ import annotations

from instar import config as configs
from instar.cli.explain.equivalents import equivalents
from instar.cli.explain.layout import section, table
from instar.cli.explain.released import released
from instar.components.piece import Sections
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.sequence.config import SequenceConfig
from instar.pipelines import fit
from instar.pipelines.fit.text import chosen
from instar.pipelines.recipe import Recipe

__all__ = ["explain"]

ORDER = (
    "data",
    "policy",
    "return",
    "target",
    "reward",
    "own tasks",
    "judge",
    "reflection",
    "advantage",
    "filter",
    "loss",
    "aggregation",
    "optimiser",
    "curriculum",
    "loop",
    "device",
    "evaluation",
    "gate",
)
"""Titles of sections, from what is learned from to what is kept."""
LIBRARIES = ("TRL 1.16", "verl 0.9", "OpenRLHF 0.11")


def explain(recipe: Recipe) -> str:
    """Return the explanation as text of at most 120 columns, ending in the options of other code that say the same."""
    preset = f"update preset '{recipe.update.preset}', " if isinstance(recipe.update, PolicyGradientConfig) else ""
    digest = configs.digest(recipe)[:12]
    head = f"{recipe.name} at scale {recipe.scale} ({recipe.paper}), {preset}digest {digest}"
    texts = sections(recipe)
    lines = [line for title in sorted(texts, key=ORDER.index) for line in section(title, texts[title])]
    return "\n".join([head, "", *lines, *options(recipe)])


def sections(recipe: Recipe) -> Sections:
    """Return the texts of every section: those of the pieces in the order of the loop, of the device, and of the gate."""
    texts: Sections = {"device": device(recipe), "gate": recipe.gate.explain(recipe)}
    pieces = (recipe.dataset_prep, recipe.curriculum, recipe.rollout, recipe.reward, recipe.update, recipe.evaluate)
    for piece in pieces:
        for title, more in piece.explain(recipe).items():
            texts[title] = [*texts.get(title, []), *more]
    return texts


def device(recipe: Recipe) -> list[str]:
    """State what a plan for a GPU chose; nothing where none was named."""
    if not recipe.device:
        return []
    plan = fit.account(recipe, fit.of_name(recipe.device))
    peaks = " and ".join(f"{peak / 2**30:.0f} GiB while {phase}" for phase, peak in plan.peaks.items())
    command = f"`instar plan {recipe.name} --scale {recipe.scale} --device {recipe.device}`"
    return [f"planned for {recipe.device}: {'; '.join(chosen(plan))}", f"predicted {peaks}; every part: {command}"]


def options(recipe: Recipe) -> list[str]:
    """Return the table of options of other code."""
    match recipe.update:
        case PolicyGradientConfig():
            title = "equivalents (a dash means that the library has none)"
            return [title, *table(LIBRARIES, equivalents(recipe, recipe.update))]
        case SequenceConfig():
            title = "options of the released code (a dash means that it has none)"
            return [title, *table([""], released(recipe, recipe.update))]
