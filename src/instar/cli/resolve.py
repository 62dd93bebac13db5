"""A recipe by name with what is given beside it, a file of differences, `--set` and presets, as one frozen recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.components.update.presets import expanded
from instar.errors import ConfigError
from instar.pipelines import schedule
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method, planned
from instar.plain import brief


def resolve(
    name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str], device: str | None = None
) -> Recipe:
    """Return the recipe with a TOML file of differences and then `--set` assignments applied, fitted to its device."""
    found, given = method(name).recipe(scale, model), configs.parse_set(sets)
    differences = configs.load_toml(file) if file else {}
    filed = changed(found, differences, str(file))
    recipe = planned(changed(filed, given, name), device, _over(differences, given))
    try:
        configs.check_read(planned(filed, device, differences), differences, str(file))
    except ConfigError:
        configs.check_read(recipe, differences, str(file))  # what reads it may be given by `--set`
    configs.check_read(recipe, given, name)
    schedule.check_given(recipe, differences, str(file))
    schedule.check_given(recipe, given, name)
    return recipe


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one; where both have a value that of `above` counts."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        found[key] = _over(inner, value) if both else value  # type: ignore[arg-type]
    return found


def changed(recipe: Recipe, given: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe with differences applied. A preset of the update stands for the objective that it names.

    What a recipe is called is no difference: with another name or scale nothing else would change.
    """
    for key, option in (
        ("name", "another recipe"),
        ("scale", "--scale"),
        ("paper", "another recipe"),
        ("device", "--device"),
    ):
        if given.get(key, getattr(recipe, key)) != getattr(recipe, key):
            raise ConfigError(
                expected=f"'{getattr(recipe, key)}', as what it was made for",
                found=brief(given[key]),
                where=f"{where}.{key}",
                action=f"choose {option}; a setting would change the label alone",
            )
    update, changes = given.get("update"), given
    if isinstance(update, Mapping) and update.get("strategy", recipe.update.strategy) == "policy_gradient":
        changes = {**given, "update": expanded(update, f"{where}.update")}
    return configs.merge(recipe, changes, where, given={})
