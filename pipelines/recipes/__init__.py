"""Every method by name, with the recipes of its scales. One file per paper holds every number of it.

A recipe that names a GPU gets the settings that depend on it from a plan for that one (`pipelines.fit`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instar import config as configs
from instar.errors import ConfigError, nearest
from instar.pipelines.changes import resolved
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


def build(
    name: str,
    scale: str = "tiny",
    changes: Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
) -> Recipe:
    """Return recipe `name` at `scale`: tiny, small, single or paper.

    `changes` has the same keys as `--set`, with Python values:

        build("sec", "tiny", {"update.lr": 2e-4, "iterations": 10, "curriculum.strategy": "thompson"})

    `model` is a base checkpoint, a folder or a hub id. `device` is the GPU to plan for. An unknown key, a value of the wrong type
    and a change without effect are `ConfigError`s.
    """
    assigned = configs.nested((changes or {}).items(), f"recipes.build('{name}')")
    return resolved(method(name).recipe(scale, model), assigned, device)


def method(name: str) -> Method:
    """Return the method of that name."""
    if name not in METHODS:
        raise ConfigError(expected="a recipe", found=repr(name), where="recipe", action=nearest(name, METHODS))
    return METHODS[name]
