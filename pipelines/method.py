"""A method: one paper, and the recipe of each of its scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from instar.components.dataset_prep.config import Checkpoint, FromRun, TextConfig
from instar.errors import ConfigError, nearest
from instar.pipelines.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Method:
    """One paper and the recipes that follow it.

    `scales` maps the name of a scale to a function that returns the recipe, for example `tiny()`.
    """

    name: str
    paper: str
    summary: str
    """One line for `instar recipes`."""
    scales: Mapping[str, Callable[[], Recipe]]

    def recipe(self, scale: str, model: str | None = None) -> Recipe:
        """Return the recipe at `scale`, not planned for any GPU yet. `model` takes the place of its base model.

        The tasks and the numbers of the scale stay, for example those of `tiny`.
        """
        if scale not in self.scales:
            raise ConfigError(
                expected=f"a scale of {self.name}",
                found=repr(scale),
                where="--scale",
                action=nearest(scale, self.scales),
            )
        recipe = self.scales[scale]()
        return started_from(recipe, Checkpoint(path=model), f"--model {model}") if model else recipe


def started_from(recipe: Recipe, initial: Checkpoint | FromRun, option: str) -> Recipe:
    """Return the recipe with another initial policy. Raises `ConfigError` for a recipe that has no language model."""
    if not isinstance(recipe.dataset_prep, TextConfig):
        raise ConfigError(
            expected=f"no {option.split()[0]}: {recipe.name} makes its own policy, which is no language model",
            found=option,
            where=option.split()[0],
            action="leave it out, or choose a recipe on text",
        )
    return replace(recipe, dataset_prep=replace(recipe.dataset_prep, initial=initial))
