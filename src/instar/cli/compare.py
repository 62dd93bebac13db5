"""What `instar evaluate` does: choose the tasks that judge two policies, and refuse what a comparison does not read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.cli.resolve import changed
from instar.errors import ConfigError
from instar.pipelines import preflight
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
    """Refuse what a comparison does not read: how a policy is trained, and a registry that it does not ask."""
    if tracking is not None and not registry:
        raise ConfigError(
            expected="no --tracking: only --against champion asks the registry",
            found=tracking,
            where="--tracking",
            action="leave it out",
        )
    for key in ("curriculum", "update", "gate", "clock", "iterations", "inner_steps", "threads"):
        if key in given:
            raise ConfigError(
                expected="settings of test, and of what has to agree with it",
                found=key,
                where=f"evaluate --set {key}",
                action="leave it out: nothing is trained here",
            )


def suite_of(policy: Path, against: str, suite: str, scale: str) -> Recipe:
    """Return the recipe whose tasks judge two policies: as named, else that of the evolutions, else SEC's tiny one.

    An evolution of that name and scale gives it with its own settings, the champion's before the candidate's; against the registry
    the candidate does not choose how it is judged. Evolutions of two recipes have no tasks in common: `ConfigError` unless one is
    named.
    """
    folders = [path for path in (Path(against), policy) if (path / "evolution.json").exists()]
    opened = [open_workspace(path) for path in folders]
    found = [(str(facts["recipe"]), str(facts["scale"])) for facts in map(status, opened)]
    names = list(dict.fromkeys(one for one, _ in found))
    if not suite and len(names) > 1:
        raise ConfigError(
            expected="two evolutions of one recipe, or --suite",
            found=f"{' and '.join(names)}",
            where="evaluate --suite",
            action="name the recipe whose tasks shall judge both",
        )
    name = suite or next(iter(names), "sec")
    fitting = [w for w, one in zip(opened, found, strict=True) if one == (name, scale or one[1])]
    if fitting and against != "champion":
        return stored_recipe(fitting[0])
    return build(name, scale or next((size for one, size in found if one == name), "tiny"), None)


def _embedded_registry(directory: Path) -> str:
    database = directory / "mlflow.db"
    if not database.exists():
        raise ConfigError(
            expected="a registry", found=f"no {database}", where="--against champion", action="give --tracking a URI"
        )
    return embedded(directory)
