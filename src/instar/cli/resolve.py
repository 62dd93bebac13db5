"""Resolves a recipe: applies a file of differences, `--set` and presets to the recipe of a name, and returns a frozen recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.components.update.presets import expanded
from instar.components.update.schedule import check_warmup
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method, planned
from instar.plain import brief


def resolve(
    name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str], device: str | None = None
) -> Recipe:
    """Return the recipe of a name and scale. First the TOML file of differences is applied, then the `--set` assignments.

    A recipe that is planned for a GPU is then fitted to its device.
    """
    base, assigned = method(name).recipe(scale, model), configs.parse_set(sets)
    differences = configs.load_toml(file) if file else {}
    filed = changed(base, differences, str(file))
    recipe = planned(changed(filed, assigned, name), device, _over(differences, assigned))
    try:
        configs.check_read(planned(filed, device, differences), differences, str(file))
    except ConfigError:
        configs.check_read(recipe, differences, str(file))  # a `--set` may give the setting that reads it
    configs.check_read(recipe, assigned, name)
    check_warmup(recipe, differences, str(file))
    check_warmup(recipe, assigned, name)
    return recipe


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one. If both have a value for a key, the value of `above` is taken."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _over(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def changed(recipe: Recipe, differences: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe with differences applied. A preset of the update is replaced by the objective that it names.

    The name and the scale of a recipe cannot be changed here: they are labels, and no other setting would change with them.
    """
    for key, option in (
        ("name", "another recipe"),
        ("scale", "--scale"),
        ("paper", "another recipe"),
        ("device", "--device"),
    ):
        if differences.get(key, getattr(recipe, key)) != getattr(recipe, key):
            raise ConfigError(
                expected=f"'{getattr(recipe, key)}', which the recipe was built for",
                found=brief(differences[key]),
                where=f"{where}.{key}",
                action=f"choose {option}, because this setting would change only the label",
            )
    update, changes = differences.get("update"), differences
    if isinstance(update, Mapping) and update.get("strategy", recipe.update.strategy) == "policy_gradient":
        changes = {**differences, "update": expanded(update, f"{where}.update")}
    return configs.merge(recipe, changes, where, given={})
