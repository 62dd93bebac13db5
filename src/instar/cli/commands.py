"""The functions behind the commands of `instar.cli.app`. They can be used from Python too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from instar.cli.own import Brought, Own, Reward, Rows, bring, own_of
from instar.cli.resolve import resolve
from instar.components.dataset_prep.config import ImportedConfig, TextConfig
from instar.components.update.schedule import outlook
from instar.errors import ConfigError
from instar.memory_limits import address_space_left, limits
from instar.outcome import Outcome, outcome_of
from instar.pipelines import preflight, versions
from instar.pipelines.evolution import evolve
from instar.pipelines.extension import reopen
from instar.pipelines.gate import power_lines
from instar.pipelines.lifecycle import check_code, close, stored_recipe
from instar.pipelines.local import LocalRunner, Mode
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import METHODS
from instar.pipelines.reuse import REUSED, open_reused
from instar.status import ending, status
from instar.store import open_store
from instar.store_files import refusals
from instar.terminal import say, warn
from instar.workspace import Workspace, create_workspace, locked, open_workspace

NOTHING_TAUGHT = 0.9
"""Share of groups without a difference in reward from which on a run says so at its end."""


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
    device: str | None = None,
    own: Own = Own(),  # noqa: B008 (frozen)
    reuse: Path | None = None,
) -> Outcome:
    """Open an evolution, or reopen it, and run it to its end."""
    path = out or Path("runs") / f"{name}-{scale}-seed{seed}"
    with bring(own) as brought:
        recipe = resolve(name, scale, model, file, sets, device, brought)
        return _evolve(recipe, path, brought, seed, store, mode, tracking, reuse)


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
    device: str | None = None,
    own: Own = Own(),  # noqa: B008 (frozen)
) -> None:
    """Run a recipe with every task in its own Docker container. The pipelines are the ones that a cluster would get."""
    from instar.pipelines.containers.evolution import drive
    from instar.pipelines.pools import load, load_images
    from instar.report import write_report
    from instar.tracking import open_tracker

    path, lock = out or Path("runs") / f"{name}-{scale}-seed{seed}", load_images(images)
    if store is not None:
        open_store(store)
    with bring(own) as brought, locked(path):
        recipe = resolve(name, scale, model, file, sets, device, brought)
        preflight.check_containers(recipe)
        workspace = create_workspace(path, f"{name}-{scale}-seed{seed}", store)
        open_tracker(tracking, workspace)  # a missing package is reported here, before the first stage
        brought.open(workspace, recipe, seed)
        reopen(workspace)
        say_outlook(recipe)
        drive(workspace, recipe, load("local"), lock)
    workspace = open_workspace(path)
    open_tracker(tracking, workspace).sync(force=True)
    summary = status(workspace)
    page = write_report(workspace, path / "report.html")
    say(f"policy {summary['policy']}\n{summary['ending']}\nreport {page}\n")


def evolve_in(
    recipe: Recipe,
    directory: Path | str,
    *,
    seed: int = 0,
    store: str | None = None,
    mode: Mode = "inprocess",
    tracking: str | None = None,
    tasks: Rows | None = None,
    reward: Reward | Sequence[Reward] | None = None,
    start: Path | str | None = None,
    scorer: Path | str | None = None,
    wording: Path | str | None = None,
    reuse: Path | str | None = None,
    accept_check: bool = False,
) -> Outcome:
    """Run `recipe` in `directory`, or continue where its ledger ends. This is `instar.evolve`.

        recipe = instar.recipes.build("sec", "tiny", {"iterations": 10})
        outcome = instar.evolve(recipe, "runs/a", seed=0, tracking="off")
        print(outcome.champion.model_path, outcome.report)

    With tasks and a reward of your own:

        from rew import reward
        rows = [{"prompt": "3 km in m = ", "answer": "3000"}, ...]
        outcome = instar.evolve(recipe, "runs/b", tasks=rows, reward=reward)

    `tasks` is a path, a list of dictionaries, or a pandas DataFrame. `reward` is a function that stands in a file, or a text such
    as `rew.py:style=0.2`, or a list of those. A reward that is not sound on the tasks is refused, unless `accept_check`.
    `start` is a run whose champion is the first policy. `scorer` is a model that scores answers: the folder of a reward model or
    judge, or a run whose champion judges. `wording` is how a judge is asked, as for `--wording`. `reuse` is a directory of the same
    recipe and seed, whose results are taken over where all that they depend on is equal.

    The same call again resumes a run that was killed. A recipe with more iterations extends one that is done. Every random number
    depends on `seed`. `store` is a directory or `s3://bucket/prefix`; by default it is inside `directory`. `mode` is `inprocess` or
    `subprocess`. `tracking` is an MLflow URI or `off`. The errors are those of `instar.errors`. Stages that were committed before
    an error are kept.
    """
    with bring(own_of(tasks, reward, start, accept_check, scorer, wording)) as brought:
        return _evolve(brought.adapt(recipe), Path(directory), brought, seed, store, mode, tracking, reuse)


def _evolve(
    recipe: Recipe,
    path: Path,
    brought: Brought,
    seed: int,
    store: str | None,
    mode: Mode,
    tracking: str | None,
    reuse: Path | str | None,
) -> Outcome:
    preflight.check(recipe)
    if store is not None:
        open_store(store)
    with refusals(path), locked(path):
        workspace = create_workspace(path, f"{recipe.name}-{recipe.scale}-seed{seed}", store)
        brought.open(workspace, recipe, seed)
        other = open_reused(Path(reuse), workspace) if reuse is not None else None
        return _drive(workspace, recipe, mode, tracking, other)


def resume(directory: Path, mode: Mode, tracking: str | None, accept_code: bool) -> Outcome | None:
    """Continue an evolution with the recipe stored in its ledger."""
    open_workspace(directory)
    if (directory / "cluster.json").exists():
        from instar.cli import cluster

        for option, is_given in (("--mode", mode != "inprocess"), ("--tracking", tracking is not None)):
            if is_given:
                raise ConfigError(
                    expected=f"no {option}, because pods run this evolution with the settings of `instar submit`",
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
        preflight.check(recipe)
        check_code(workspace, accept_code)
        return _drive(workspace, recipe, mode, tracking)


def _drive(
    workspace: Workspace, recipe: Recipe, mode: Mode, tracking: str | None, reuse: Workspace | None = None
) -> Outcome:
    """Run the loop with progress and tracking, and close the ledger. The report is written even after an error."""
    from instar.cli.progress import make_listener
    from instar.report import write_report
    from instar.tracking import open_tracker

    ran, runs = versions.noted(workspace.ledger.entries), versions.notes(recipe.threads)
    if workspace.ledger.closing is None:
        warn(versions.sentence("this evolution ran and goes on", versions.changes(ran, runs)))
    tracker = open_tracker(tracking, workspace)
    say_outlook(recipe)
    say_limits()
    try:
        with make_listener(recipe, tracker) as listener:
            runner = LocalRunner(workspace, mode, listener, threads=recipe.threads, reuse=reuse)
            ended = evolve(runner, recipe)
        close(workspace, ended)
        tracker.sync()
    except BaseException:
        with contextlib.suppress(Exception):  # an error of the report must not hide the error of the run
            write_report(workspace, workspace.path / "report.html")
        raise
    page = write_report(workspace, workspace.path / "report.html")
    if reuse is not None:
        stages = list(workspace.ledger.of("stage"))
        say(
            f"{sum(REUSED in entry.time for entry in stages)} of {len(stages)} results are taken over from {reuse.path}\n"
        )
    how = ending(list(workspace.ledger.of("gate")))
    say(f"policy {ended.state.policy.digest}\n{how}\n{taught_nothing(workspace)}report {page}\n")
    return outcome_of(workspace)


def say_outlook(recipe: Recipe) -> None:
    """Print where the plans of the recipe and the length of the run differ: of its learning rate, and of its curriculum."""
    for line in filter(None, (outlook(recipe), recipe.curriculum.outlook(recipe), *_seen(recipe))):
        say(f"note: {line}\n")


def _seen(recipe: Recipe) -> list[str]:
    """Return which gains the user's own validation tasks can show, if the gate decides on them."""
    prep = recipe.dataset_prep
    imported = isinstance(prep, TextConfig) and isinstance(prep.pools, ImportedConfig)
    return power_lines(recipe)[:1] if imported and recipe.gate.select == "best" else []


def taught_nothing(workspace: Workspace) -> str:
    """Return a note if in nearly all groups of the last iteration all answers were right or all were wrong, else an empty text."""
    names = ("zero_variance_share", "update/zero_variance_share")
    shares = [m[name] for e in workspace.ledger.of("stage") for m in [e.body["metrics"]] for name in names if name in m]
    if not shares or shares[-1] < NOTHING_TAUGHT:
        return ""
    return (
        f"note: {shares[-1]:.0%} of the groups of the last iteration taught nothing, because all answers to a task were right or "
        "all were wrong; easier or harder tasks would help, and at scale tiny a shorter start: "
        "dataset_prep.initial.warm_start.steps\n"
    )


def say_limits() -> None:
    """Print a limit of the address space, because a library that reaches it may end this process without a message."""
    if address_space_left() is not None:
        say(f"note: {limits()}; a library that reaches the limit may end this process by signal 6 (SIGABRT)\n")


def report(directory: Path) -> None:
    """Write the report of an evolution."""
    from instar.report import write_report

    workspace = open_workspace(directory)
    say(f"report {write_report(workspace, workspace.path / 'report.html')}\n")


def list_recipes() -> None:
    """Print the recipes."""
    for name, known in METHODS.items():
        say(f"{name:<16} {', '.join(known.scales):<24} {known.summary} ({known.paper}).\n")


def explain(
    name: str,
    scale: str,
    model: str | None,
    file: Path | None,
    sets: Sequence[str],
    device: str | None = None,
    own: Own = Own(),  # noqa: B008 (frozen)
) -> None:
    """Print the resolved objective."""
    from instar.cli.explain import explain as text

    with bring(own) as brought:
        say(text(resolve(name, scale, model, file, sets, device, brought)) + "\n")


def make_data(environment: str, out: Path, steps: int, seed: int, seconds: float | None) -> None:
    """Record offline data of several qualities: random, medium-replay, medium and expert."""
    import torch

    from instar.components.dataset_prep.offline.record import make_data as record
    from instar.components.dataset_prep.offline.recording import Job

    torch.set_num_threads(1)
    job = Job(env=environment, steps=steps, seed=seed, seconds=seconds)
    recorded = record(job, out, lambda line: say(line + "\n"))
    for tier, facts in recorded["tiers"].items():
        say(f"{tier}: {facts['episodes']:.0f} episodes, mean return {facts['mean_return']:.1f}\n")


def promote(directory: Path, tracking: str | None) -> None:
    """Move the champion alias."""
    from instar.tracking import open_tracker

    with locked(directory):
        workspace = open_workspace(directory)
        known = status(workspace)
        open_tracker(tracking, workspace).promote(known["champion"])
        say(f"champion {known['champion']}\n")
