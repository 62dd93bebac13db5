"""A method: one paper, and the recipe of each of its scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instar.errors import ConfigError, nearest
from instar.pipelines.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Method:
    """One paper and the recipes that follow it.

    `scales` maps the name of a scale to a function that returns the recipe. The function of a scale in `takes_model` takes
    the base model, for example `paper("models/qwen")`. The others take nothing, for example `tiny()`: they make their own model.
    """

    name: str
    paper: str
    summary: str
    """One line for `instar recipes`."""
    scales: Mapping[str, Callable[..., Recipe]]
    takes_model: tuple[str, ...] = ()

    def recipe(self, scale: str, model: str | None = None) -> Recipe:
        """Return the recipe at `scale`, not planned for any GPU yet. Without `model`, it uses a base model of its own."""
        if scale not in self.scales:
            raise ConfigError(
                expected=f"a scale of {self.name}",
                found=repr(scale),
                where="--scale",
                action=nearest(scale, self.scales),
            )
        if scale in self.takes_model:
            return self.scales[scale](model)
        if model:
            raise ConfigError(
                expected=f"no --model: {self.name} at {scale} makes its own model",
                found=model,
                where="--model",
                action="leave it out, or choose a scale that starts from a checkpoint",
            )
        return self.scales[scale]()
