"""Resolves a recipe from the options of a command: a name, a scale, a file of differences and `--set` assignments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instar import config as configs
from instar.cli.own import Brought
from instar.pipelines.changes import resolved
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method


def resolve(
    name: str,
    scale: str,
    model: str | None,
    file: Path | None,
    sets: Sequence[str],
    device: str | None = None,
    brought: Brought | None = None,
) -> Recipe:
    """Return the recipe of a name and scale.

    What the user brings is applied first, then the TOML file of differences, then the `--set` assignments.
    """
    base, assigned, filed = method(name).recipe(scale, model), configs.parse_set(sets), None
    if file:
        filed = configs.load_toml(file)
    if brought is not None:
        base = brought.adapt(base)
        assigned, filed = brought.named(assigned), brought.named(filed or {})
    return resolved(base, assigned, device, filed=filed, file=str(file))
