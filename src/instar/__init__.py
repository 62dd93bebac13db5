"""Self-evolving training as a pipeline: a policy acts, is scored, learns, and chooses what to try next.

Importing this package loads nothing heavy. Torch, transformers, mlflow and kfp are imported where they are used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instar.cli.commands import evolve_in as evolve
    from instar.pipelines import recipes

__all__ = ["__version__", "evolve", "recipes"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load `evolve` and `recipes` when they are first used."""
    import importlib

    if name == "evolve":
        return importlib.import_module("instar.cli.commands").evolve_in
    if name == "recipes":
        return importlib.import_module("instar.pipelines.recipes")
    raise AttributeError(f"module 'instar' has no attribute {name!r}")
