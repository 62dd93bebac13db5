"""`instar evaluate`: chooses the tasks on which two policies are compared, and refuses options that have no effect on it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.errors import ConfigError
from instar.pipelines import preflight
from instar.pipelines.changes import changed
from instar.pipelines.lifecycle import stored_recipe
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.status import status
from instar.store_files import check_writable
from instar.tracking_copy import embedded
from instar.workspace import open_workspace


def evaluate(
    policy: Path,
    against: str,
    suite: str,
    scale: str,
    seed: int,
    tracking: str | None,
    sets: Sequence[str],
    markdown: Path | None = None,
) -> int:
    """Evaluate two policies on the tasks of `suite` and return the exit code of the comparison."""
    from instar.pipelines.evaluation import Page, compare_policies, registry_side, side
    from instar.tracking_server import scrub

    if markdown is not None:
        check_writable(markdown, "--markdown")
    given, registry = configs.parse_set(sets), against == "champion"
    _check_judged(given, tracking, registry)
    chosen = suite_of(policy, against, suite, scale)
    suite, scale = chosen.name, chosen.scale
    recipe = changed(chosen, given, suite)
    configs.check_read(recipe, given, suite)
    preflight.check(recipe, ("test",))
    command = ["instar", "evaluate", str(policy), "--against", against, "--suite", suite, "--scale", scale]
    command += ["--seed", str(seed), *(["--tracking", scrub(tracking)] if tracking else [])]
    command += [word for value in sets for word in ("--set", value)]
    page = Page(path=markdown, seed=seed, command=tuple(command)) if markdown else None
    with tempfile.TemporaryDirectory(prefix="instar-evaluate-") as temporary:
        if registry:
            baseline = registry_side(tracking or _embedded_registry(policy), suite, Path(temporary))
        else:
            baseline = side(Path(against))
        return compare_policies(side(policy), baseline, recipe, f"{suite}-{scale}-seed{seed}", Path(temporary), page)


def _check_judged(given: Mapping[str, Any], tracking: str | None, registry: bool) -> None:
    """Refuse settings that a comparison does not use: settings of training, and a registry that is not asked."""
    if tracking is not None and not registry:
        raise ConfigError(
            expected="no --tracking, because only --against champion uses the registry",
            found=tracking,
            where="--tracking",
            action="leave it out",
        )
    for key in ("curriculum", "update", "gate", "clock", "iterations", "inner_steps", "threads"):
        if key in given:
            raise ConfigError(
                expected="only settings of the test, and settings that must agree with it",
                found=key,
                where=f"evaluate --set {key}",
                action="leave it out, because nothing is trained here",
            )


def suite_of(policy: Path, against: str, suite: str, scale: str) -> Recipe:
    """Return the recipe whose tasks are used to compare two policies.

    It is the recipe `suite`. If `suite` is empty, it is the recipe of the evolutions; if there is none, it is SEC at scale tiny.

    If one of the evolutions has this recipe and scale, its settings are used too: those of the champion before those of the
    candidate. With `against` the registry's champion, no settings are taken from the candidate, so that it has no influence
    on how it is compared.

    Evolutions of two recipes have no tasks in common. Then `ConfigError` is raised unless `suite` names a recipe.
    """
    folders = [path for path in (Path(against), policy) if (path / "evolution.json").exists()]
    opened = [open_workspace(path) for path in folders]
    recipes_and_scales = [(str(facts["recipe"]), str(facts["scale"])) for facts in map(status, opened)]
    names = list(dict.fromkeys(one for one, _ in recipes_and_scales))
    if not suite and len(names) > 1:
        raise ConfigError(
            expected="two evolutions of the same recipe, or --suite",
            found=f"{' and '.join(names)}",
            where="evaluate --suite",
            action="name the recipe whose tasks both policies shall try",
        )
    name = suite or next(iter(names), "sec")
    fitting = [w for w, one in zip(opened, recipes_and_scales, strict=True) if one == (name, scale or one[1])]
    if fitting and against != "champion":
        return stored_recipe(fitting[0])
    return build(name, scale or next((size for one, size in recipes_and_scales if one == name), "tiny"))


def _embedded_registry(directory: Path) -> str:
    database = directory / "mlflow.db"
    if not database.exists():
        raise ConfigError(
            expected="a model registry",
            found=f"no {database}",
            where="--against champion",
            action="give --tracking a URI",
        )
    return embedded(directory)
