"""Every recipe by name: a function of scale and base model that returns a frozen `Recipe`, and the scales it has.

A recipe that names a GPU gets the settings that depend on it from a plan for that one (`pipelines.fit`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from instar.errors import ConfigError, nearest
from instar.pipelines.fit import fit
from instar.pipelines.recipe import Recipe, Scale
from instar.pipelines.recipes.decision_mamba import decision_mamba
from instar.pipelines.recipes.sec import sec
from instar.pipelines.recipes.spark import spark

Build = Callable[[Scale, str | None], Recipe]
RECIPES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "decision_mamba": (decision_mamba, ("tiny", "single", "paper")),
    "sec": (sec, ("tiny", "small", "single", "paper")),
    "spark": (spark, ("tiny", "small", "paper")),
}


def build(name: str, scale: str, model: str | None = None, device: str | None = None) -> Recipe:
    """Return recipe `name` at `scale`; `model` is the base checkpoint of the scales that need one, `device` the GPU to plan for."""
    return planned(method(name, scale, model), device)


def planned(recipe: Recipe, device: str | None = None, given: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe fitted to `device`, or to the GPU that it names; what was `given` stays. Others have no device."""
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


def method(name: str, scale: str, model: str | None = None) -> Recipe:
    """Return recipe `name` at `scale` before any plan."""
    if name not in RECIPES:
        raise ConfigError(expected="a recipe", found=repr(name), where="recipe", action=nearest(name, RECIPES))
    function, scales = RECIPES[name]
    if scale not in scales:
        raise ConfigError(
            expected=f"a scale of {name}", found=repr(scale), where="--scale", action=nearest(scale, scales)
        )
    if model and (scale == "tiny" or name == "decision_mamba"):
        raise ConfigError(
            expected=f"no --model: {name} at {scale} makes its own",
            found=model,
            where="--model",
            action="leave it out, or choose a scale that starts from a checkpoint",
        )
    return function(cast(Scale, scale), model)
