"""Changes to the recipe of a method: from `--set`, from a file, or from Python. All of them are applied here.

    recipes.build("sec", "tiny", {"update.lr": 2e-4, "iterations": 10})        from Python
    instar run sec --set update.lr=2e-4 --set iterations=10                    on the command line

A preset of the update is replaced by the objective that it names. A recipe that is planned for a GPU is then fitted to it. A
change without effect is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar import config as configs
from instar.components.update.presets import expanded
from instar.components.update.schedule import check_warmup
from instar.errors import ConfigError
from instar.pipelines.fit import fit
from instar.pipelines.recipe import Recipe
from instar.plain import brief


def resolved(
    base: Recipe,
    assigned: Mapping[str, Any],
    device: str | None = None,
    *,
    filed: Mapping[str, Any] | None = None,
    file: str = "",
) -> Recipe:
    """Return the recipe with changes applied: first those of a file (`filed`), then those that are `assigned`.

    Both are nested mappings, for example `{"update": {"lr": 2e-4}}`.
    """
    of_file, name = filed or {}, base.name
    with_file = changed(base, of_file, file)
    recipe = planned(changed(with_file, assigned, name), device, _over(of_file, assigned))
    try:
        configs.check_read(planned(with_file, device, of_file), of_file, file)
    except ConfigError:
        configs.check_read(recipe, of_file, file)  # an assignment may give the setting that reads it
    configs.check_read(recipe, assigned, name)
    check_warmup(recipe, of_file, file)
    check_warmup(recipe, assigned, name)
    return recipe


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


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one. If both have a value for a key, the value of `above` is taken."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _over(inner, value) if both else value  # type: ignore[arg-type]
    return merged
