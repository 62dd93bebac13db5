"""Self-evolving training as a pipeline: a policy acts, is scored, learns, and chooses what to try next.

    from instar import evolve, recipes

    recipe = recipes.build("sec", "tiny", {"update.lr": 2e-4, "iterations": 10})      the same keys as --set
    outcome = evolve(recipe, "runs/a", seed=0)
    outcome.metrics()                  a pandas DataFrame, one row per iteration
    outcome.champion.model_path        a folder that transformers loads

`instar.rows` has the types of the rows in tables, `instar.errors` those of the errors. Importing this package loads nothing heavy.
Torch, transformers, mlflow and kfp are imported where they are used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instar import errors, rows
    from instar.cli.commands import evolve_in as evolve
    from instar.outcome import Outcome, StoredPolicy
    from instar.pipelines import recipes
    from instar.pipelines.recipe import Recipe

__all__ = ["Outcome", "Recipe", "StoredPolicy", "__version__", "errors", "evolve", "recipes", "rows"]
__version__ = "0.1.0"
_PLACES = {
    "Outcome": "instar.outcome:Outcome",
    "Recipe": "instar.pipelines.recipe:Recipe",
    "StoredPolicy": "instar.outcome:StoredPolicy",
    "errors": "instar.errors",
    "evolve": "instar.cli.commands:evolve_in",
    "recipes": "instar.pipelines.recipes",
    "rows": "instar.rows",
}
"""Public name -> where it is. A name is loaded when it is first used."""


def __getattr__(name: str) -> object:
    """Load a public name when it is first used."""
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module 'instar' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
