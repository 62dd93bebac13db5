"""Resolves a recipe from the options of a command: a name, a scale, a file of differences and `--set` assignments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instar import config as configs
from instar.pipelines.changes import resolved
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method


def resolve(
    name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str], device: str | None = None
) -> Recipe:
    """Return the recipe of a name and scale. First the TOML file of differences is applied, then the `--set` assignments."""
    base, assigned = method(name).recipe(scale, model), configs.parse_set(sets)
    return resolved(base, assigned, device, filed=configs.load_toml(file) if file else None, file=str(file))
