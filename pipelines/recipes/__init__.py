"""Every method by name, with the recipes of its scales. One file per paper holds every number of it.

A recipe that names a GPU gets the settings that depend on it from a plan for that one (`pipelines.fit`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar.errors import ConfigError, nearest
from instar.pipelines.fit import fit
from instar.pipelines.method import Method
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes.decision_mamba import DECISION_MAMBA
from instar.pipelines.recipes.sec import SEC
from instar.pipelines.recipes.spark import SPARK

METHODS: dict[str, Method] = {
    "decision_mamba": DECISION_MAMBA,
    "sec": SEC,
    "spark": SPARK,
}


def build(name: str, scale: str, model: str | None = None, device: str | None = None) -> Recipe:
    """Return recipe `name` at `scale`. `model` is the base checkpoint of scales that take one, `device` is the GPU to plan for."""
    return planned(method(name).recipe(scale, model), device)


def planned(recipe: Recipe, device: str | None = None, given: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe fitted to `device`, or else to the GPU that it names. Settings that are `given` stay.

    Raises `ConfigError` for a device if the recipe is not planned for a GPU.
    """
    if not recipe.device:
        if device:
            raise ConfigError(
                expected=f"no --device: {recipe.name} at {recipe.scale} is not planned for a GPU",
                found=device,
                where="--device",
                action="leave it out, or choose --scale single or paper of a recipe that samples text",
            )
        return recipe
    return fit(recipe, device or recipe.device, given)


def method(name: str) -> Method:
    """Return the method of that name."""
    if name not in METHODS:
        raise ConfigError(expected="a recipe", found=repr(name), where="recipe", action=nearest(name, METHODS))
    return METHODS[name]
