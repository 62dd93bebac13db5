"""A recipe small enough to run whole in a second or two: sort 2 to 4 digits, two inner steps an iteration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import ArmConfig, FromScratch, PoolsConfig
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.pipelines.evolution import Outcome, evolve
from instar.pipelines.local import LocalRunner, Mode
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.workspace import Workspace, create_workspace

EVOLUTION = "sec-micro-seed0"


def pools(val: int = 6) -> PoolsConfig:
    """Return three arms: sort 2, 3 and 4 digits."""
    arms = tuple(
        ArmConfig(name=f"sort-{n}", domain="sorting", level=float(n), params={"length": n}, train=40, val=val, test=6)
        for n in (2, 3, 4)
    )
    return PoolsConfig(arms=arms, template="terse")


def micro(**changes: Any) -> Recipe:
    """Return the micro recipe: the tiny recipe of SEC with smaller numbers everywhere."""
    base = build("sec", "tiny")
    recipe = dataclasses.replace(
        base,
        iterations=2,
        inner_steps=2,
        dataset_prep=dataclasses.replace(
            base.dataset_prep,
            pools=pools(),
            initial=FromScratch(
                model=CharModelConfig(alphabet="0123456789=", hidden=32, layers=2, heads=2, intermediate=32),
                warm_start=WarmStartConfig(arms=("sort-2", "sort-3"), steps=120, batch=64, lr=4e-3),
            ),
        ),
        curriculum=dataclasses.replace(base.curriculum, prompts=12, group_size=4),
        evaluate=dataclasses.replace(base.evaluate, tasks_per_arm=6, min_pairs=18),
        test=dataclasses.replace(base.test, splits=("id",), tasks_per_arm=6, samples=1),
    )
    return dataclasses.replace(recipe, **changes)


def micro_generated(**changes: Any) -> Recipe:
    """Return the micro recipe with generated tasks: what one inner step attempts becomes tasks of the next (SPARK)."""
    more = {
        "dataset_prep": {"initial": {"model": {"alphabet": "0123456789=?!|ynab"}}},
        "reward": {"recycle": {"wording": "terse"}},
        "curriculum": {"generated": {"prompts": 4}},
    }
    return configs.merge(micro(**changes), more)


def open_and_run(directory: Path, recipe: Recipe, mode: Mode = "inprocess", store: str | None = None) -> Outcome:
    """Run `recipe` in `directory` as the command line does, without tracking, report or progress."""
    from instar.pipelines.lifecycle import open_evolution

    workspace: Workspace = create_workspace(directory, f"{recipe.name}-micro-seed0", store)
    open_evolution(workspace, recipe, 0)
    return evolve(LocalRunner(workspace, mode, threads=recipe.threads), recipe)


def write_toml(path: Path) -> Path:
    """Write the differences between the tiny recipe and the micro one, for `instar run sec --config`."""
    wanted, tiny = configs.to_dict(micro()), configs.to_dict(build("sec", "tiny"))
    path.write_text("\n".join(_toml(wanted, tiny, "")) + "\n")
    return path


def _toml(wanted: Any, base: Any, where: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(base, dict):
        return [
            line for key in wanted for line in _toml(wanted[key], base.get(key), f"{where}.{key}" if where else key)
        ]
    if wanted == base:
        return []
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        tables = [", ".join(f"{k} = {_inline(v)}" for k, v in item.items()) for item in wanted]
        return [f"{where} = [" + ", ".join(f"{{{table}}}" for table in tables) + "]"]
    return [f"{where} = {json.dumps(wanted)}"]


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
