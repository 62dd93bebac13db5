"""What the commands of `instar.cli` do. Everything here is also usable from Python."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.components.update.presets import expanded
from instar.errors import ConfigError
from instar.lifecycle import check_code, close, open_evolution, stored_recipe
from instar.pipelines import machine
from instar.pipelines.evolution import Outcome, evolve
from instar.pipelines.local import LocalRunner, Mode
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import RECIPES, build
from instar.status import status
from instar.workspace import Workspace, create_workspace, locked, open_workspace


def resolve(name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str]) -> Recipe:
    """Return the recipe with a TOML file of differences and then `--set` assignments applied."""
    found, given = build(name, scale, model), configs.parse_set(sets)
    differences = configs.load_toml(file) if file else {}
    filed = _changed(found, differences, str(file))
    recipe = _changed(filed, given, name)
    try:
        configs.check_read(filed, differences, str(file))
    except ConfigError:
        configs.check_read(recipe, differences, str(file))  # what reads it may be given by `--set`
    configs.check_read(recipe, given, name)
    return recipe


def _changed(recipe: Recipe, given: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe with differences applied. A preset of the update stands for the objective that it names.

    What a recipe is called is no difference: with another name or scale nothing else would change.
    """
    for key, option in (("name", "another recipe"), ("scale", "--scale"), ("paper", "another recipe")):
        if given.get(key, getattr(recipe, key)) != getattr(recipe, key):
            raise ConfigError(
                expected=f"'{getattr(recipe, key)}', as what it was made for",
                found=f"'{given[key]}'",
                where=f"{where}.{key}",
                action=f"choose {option}; a setting would change the label alone",
            )
    update, changes = given.get("update"), given
    if isinstance(update, Mapping) and update.get("strategy", recipe.update.strategy) == "policy_gradient":
        changes = {**given, "update": expanded(update, f"{where}.update")}
    return configs.merge(recipe, changes, where, given={})


def run(
    name: str,
    scale: str,
    seed: int,
    out: Path | None,
    store: str | None,
    model: str | None,
    mode: Mode,
    tracking: str | None,
    file: Path | None,
    sets: Sequence[str],
) -> Outcome:
    """Open an evolution (or reopen the same one) and run it to its end."""
    recipe = resolve(name, scale, model, file, sets)
    return evolve_in(
        recipe, out or Path("runs") / f"{name}-{scale}-seed{seed}", seed=seed, store=store, mode=mode, tracking=tracking
    )


def run_in_containers(
    name: str,
    scale: str,
    seed: int,
    out: Path | None,
    store: str | None,
    model: str | None,
    images: Path,
    tracking: str | None,
    file: Path | None,
    sets: Sequence[str],
) -> None:
    """Run a recipe with every task in its own Docker container, from the pipelines that a cluster would get."""
    from instar.pipelines.containers.chain import drive
    from instar.pipelines.pools import load, load_images
    from instar.report import write_report
    from instar.tracking import open_tracker

    recipe, lock = resolve(name, scale, model, file, sets), load_images(images)
    path = out or Path("runs") / f"{name}-{scale}-seed{seed}"
    with locked(path):
        workspace = create_workspace(path, f"{name}-{scale}-seed{seed}", store)
        open_evolution(workspace, recipe, seed)
        drive(workspace, recipe, load("local"), lock)
    workspace = open_workspace(path)
    open_tracker(tracking, workspace).sync(force=True)
    sys.stdout.write(f"policy {status(workspace)['policy']}\nreport {write_report(workspace, path / 'report.html')}\n")


def evolve_in(
    recipe: Recipe,
    directory: Path | str,
    *,
    seed: int = 0,
    store: str | None = None,
    mode: Mode = "inprocess",
    tracking: str | None = None,
) -> Outcome:
    """Run `recipe` in `directory`, or go on where its ledger ends. This is `instar.evolve`.

    `seed` keys every random number. `store` is a directory or `s3://bucket/prefix` (default: inside `directory`), `tracking`
    an MLflow URI or `off`. Raises the errors of `instar.errors`; what was committed before an error stays.
    """
    machine.check(recipe)
    path = Path(directory)
    with locked(path):
        workspace = create_workspace(path, f"{recipe.name}-{recipe.scale}-seed{seed}", store)
        open_evolution(workspace, recipe, seed)
        return _drive(workspace, recipe, mode, tracking)


def resume(directory: Path, mode: Mode, tracking: str | None, accept_code: bool) -> Outcome | None:
    """Continue an evolution with the recipe stored in its ledger."""
    open_workspace(directory)
    if (directory / "cluster.json").exists():
        from instar import cluster

        for option, given in (("--mode", mode != "inprocess"), ("--tracking", tracking is not None)):
            if given:
                raise ConfigError(
                    expected=f"no {option}: pods run the stages of this evolution, and report as they were submitted",
                    found=option,
                    where=f"resume {directory}",
                    action="leave it out",
                )
        if accept_code:
            check_code(open_workspace(directory), accept=True)
        cluster.say(cluster.resume(directory))
        return None
    with locked(directory):
        workspace = open_workspace(directory)
        recipe = stored_recipe(workspace)
        machine.check(recipe)
        check_code(workspace, accept_code)
        return _drive(workspace, recipe, mode, tracking)


def _drive(workspace: Workspace, recipe: Recipe, mode: Mode, tracking: str | None) -> Outcome:
    """Run the loop with progress and tracking, close the ledger, write the report whatever happens."""
    from instar.progress import make_listener
    from instar.report import write_report
    from instar.tracking import open_tracker

    tracker = open_tracker(tracking, workspace)
    try:
        with make_listener(recipe, tracker) as listener:
            outcome = evolve(LocalRunner(workspace, mode, listener, threads=recipe.threads), recipe)
        close(workspace, outcome)
        tracker.sync()
    except BaseException:
        with contextlib.suppress(Exception):  # the page is a convenience here; the error is what matters
            write_report(workspace, workspace.path / "report.html")
        raise
    page = write_report(workspace, workspace.path / "report.html")
    sys.stdout.write(f"policy {outcome.state.policy.digest}\nreport {page}\n")
    return outcome


def report(directory: Path) -> None:
    """Write the report of an evolution."""
    from instar.report import write_report

    workspace = open_workspace(directory)
    sys.stdout.write(f"report {write_report(workspace, workspace.path / 'report.html')}\n")


def list_recipes() -> None:
    """Print the recipes."""
    for name, (function, scales) in RECIPES.items():
        sys.stdout.write(f"{name:<16} {', '.join(scales):<24} {(function.__doc__ or '').splitlines()[0]}\n")


def explain(name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str]) -> None:
    """Print the resolved objective."""
    from instar.explain import explain as text

    sys.stdout.write(text(resolve(name, scale, model, file, sets)) + "\n")


def make_data(environment: str, out: Path, steps: int, seed: int, seconds: float | None) -> None:
    """Record offline data of graded quality."""
    import torch

    from instar.components.dataset_prep.offline.record import make_data as record
    from instar.components.dataset_prep.offline.recording import Job

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    torch.set_num_threads(1)
    found = record(Job(env=environment, steps=steps, seed=seed, seconds=seconds), out, say)
    for tier, facts in found["tiers"].items():
        sys.stdout.write(f"{tier}: {facts['episodes']:.0f} episodes, mean return {facts['mean_return']:.1f}\n")


def promote(directory: Path, tracking: str | None) -> None:
    """Move the champion alias."""
    from instar.tracking import open_tracker

    with locked(directory):
        workspace = open_workspace(directory)
        found = status(workspace)
        open_tracker(tracking, workspace).promote(found["champion"])
        sys.stdout.write(f"champion {found['champion']}\n")


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

    given, registry = configs.parse_set(sets), against == "champion"
    _check_judged(given, tracking, registry)
    chosen = suite_of(policy, against, suite, scale)
    suite, scale = chosen.name, chosen.scale
    recipe = _changed(chosen, given, suite)
    configs.check_read(recipe, given, suite)
    machine.check(recipe, ("test",))
    command = ["instar", "evaluate", str(policy), "--against", against, "--suite", suite, "--scale", scale]
    command += ["--seed", str(seed), *(["--tracking", scrub(tracking)] if tracking else [])]
    command += [word for value in sets for word in ("--set", value)]
    page = Page(path=markdown, seed=seed, command=tuple(command)) if markdown else None
    with tempfile.TemporaryDirectory(prefix="instar-evaluate-") as temporary:
        if registry:
            champion = registry_side(tracking or _embedded_registry(policy), suite, Path(temporary))
        else:
            champion = side(Path(against))
        return compare_policies(side(policy), champion, recipe, f"{suite}-{scale}-seed{seed}", Path(temporary), page)


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
    return f"sqlite:///{database.resolve()}"
