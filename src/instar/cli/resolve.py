"""Resolves a recipe from the options of a command: a name, a scale, what the user brings, a file of differences, `--set`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instar import config as configs
from instar.cli.own import Brought
from instar.errors import ConfigError
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
    if model and brought is not None and brought.start is not None:
        raise ConfigError(
            expected="--model or --from, because an evolution starts from one policy",
            found=f"--model {model} and --from {brought.start}",
            where="instar run",
            action="leave one of them out",
        )
    base, assigned = method(name).recipe(scale, model), configs.parse_set(sets)
    filed = configs.load_toml(file) if file else None
    if brought is not None:
        base = brought.adapt(base)
        assigned, filed = brought.named(assigned), brought.named(filed or {})
    return resolved(base, assigned, device, filed=filed, file=str(file))
