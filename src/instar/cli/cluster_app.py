"""The commands for a cluster: compile, plan, submit, schedule, status, stop. `instar.cli.app` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from instar.errors import ConfigError
from instar.terminal import say, warn

if TYPE_CHECKING:
    from instar.cli.own import Own

Sets = Annotated[list[str] | None, typer.Option("--set", help="change one value, for example update.lr=1e-4")]
Toml = Annotated[Path | None, typer.Option("--config", help="TOML file of differences to the recipe")]
ScaleOption = Annotated[str, typer.Option(help="tiny, small, single or paper")]
ModelOption = Annotated[str | None, typer.Option(help="base checkpoint in place of the recipe's own: folder or hub id")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", help="GPU to plan for: h200, h100-80g, a100-80g or 24g (scales single and paper; default h100-80g)"
    ),
]
TasksOption = Annotated[
    str | None, typer.Option("--tasks", help="your own tasks: a file, or a folder of `instar import`")
]
RewardOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reward", help="your own reward function, FILE.py:NAME; more of them with =WEIGHT; a range as [LOW,HIGH]"
    ),
]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="a model that scores answers: folder of a reward model or judge, or a run; perhaps with =WEIGHT",
    ),
]
WordingOption = Annotated[
    str | None,
    typer.Option(
        "--wording",
        help="how a judge is asked: words, few_shot, terse, or a file with {prompt} and {answer}",
    ),
]
RequirementsOption = Annotated[
    Path | None, typer.Option("--requirements", help="lock with hashes of the packages that your code needs")
]
AllowOption = Annotated[
    list[str] | None, typer.Option("--allow", help="let your reward use the `network`, or start `processes`")
]
AcceptOption = Annotated[
    bool,
    typer.Option("--accept-check", help="run although `instar check` calls the reward unsound; the ledger says so"),
]
Segment = Literal["begin", "iterate", "finish", "tick"]
Engine = Literal["kfp", "argo"]
ProfileOption = Annotated[str, typer.Option(help="node-pool profile; see pipelines/pools.toml")]
PoolsOption = Annotated[Path | None, typer.Option(help="your own pools file")]
ImagesOption = Annotated[Path, typer.Option(help="lock of image digests, written by `make images`")]
UnrollOption = Annotated[int, typer.Option(min=1, max=8, help="iterations in one run")]
HostOption = Annotated[str, typer.Option(envvar="INSTAR_KFP_HOST", help="URL of the pipelines API server")]
NamespaceOption = Annotated[
    str, typer.Option(envvar="INSTAR_KFP_NAMESPACE", help="namespace of the runs; default the one of the pool profile")
]
StoreOption = Annotated[str, typer.Option(help="s3://bucket/prefix that the pods reach")]
Dir = Annotated[Path, typer.Argument(help="directory of an evolution that was submitted")]
LOCK = Path("build/images/images.lock")


def own_of_options(
    tasks: str | None,
    reward: list[str] | None,
    requirements: Path | None,
    allow: list[str] | None,
    from_run: str | None = None,
    accept_check: bool = False,
    scorer: str | None = None,
    wording: str | None = None,
) -> Own:
    """Return what the options of a command bring."""
    from instar.cli.own import Own

    return Own(
        tasks=tasks,
        rewards=tuple(reward or ()),
        start=from_run,
        scorer=scorer,
        wording=wording,
        requirements=requirements,
        allow=tuple(allow or ()),
        accept_check=accept_check,
    )


def compile_command(
    recipe: Annotated[str, typer.Argument(help="recipe name")],
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write")],
    segment: Annotated[Segment, typer.Option(help="which run of the chain")] = "iterate",
    engine: Annotated[Engine, typer.Option(help="argo: the whole loop as one recursive workflow")] = "kfp",
    scale: ScaleOption = "tiny",
    profile: ProfileOption = "kind-dev",
    pools: PoolsOption = None,
    images: Annotated[
        Path | None, typer.Option(help=f"lock of image digests; default {LOCK}, or local names where there is none")
    ] = None,
    unroll: UnrollOption = 1,
    model: ModelOption = None,
    device: DeviceOption = None,
    tasks: TasksOption = None,
    reward: RewardOption = None,
    scorer: ScorerOption = None,
    wording: WordingOption = None,
    requirements: RequirementsOption = None,
    allow: AllowOption = None,
    accept_check: AcceptOption = False,
    store: Annotated[
        str | None, typer.Option(help="argo: store of the workflow; what you bring is stored there now")
    ] = None,
    config: Toml = None,
    sets: Sets = None,
) -> None:
    """Write a recipe as a Kubeflow pipeline package, or as an Argo workflow."""
    from instar.cli import cluster
    from instar.cli.own import bring
    from instar.cli.resolve import resolve

    if store is not None and engine != "argo":
        raise ConfigError(
            expected="--store with --engine argo only: `instar submit` stores what a Kubeflow pipeline reads",
            found=f"--store {store}, --engine {engine}",
            where="compile",
            action="leave it out",
        )
    lock = images or (LOCK if LOCK.exists() else None)
    where = cluster.target(profile, pools, lock, unroll)
    own = own_of_options(tasks, reward, requirements, allow, None, accept_check, scorer=scorer, wording=wording)
    with bring(own) as brought:
        resolved = resolve(recipe, scale, model, config, sets or [], device, brought)
        stored = None if store is None else cluster.store_brought(resolved, brought, store)
    cluster.compile_recipe(resolved, segment, where, out, engine, stored)
    if lock is None:
        warn(
            f"{out}: images have the names of this machine, such as instar-cpu:dev, because there is no {LOCK}.\n"
            "This file is only for reading. For a cluster, build and push the images, and name their lock with --images.\n"
        )


def submit(
    recipe: Annotated[str, typer.Argument(help="recipe name")],
    store: StoreOption,
    host: HostOption,
    scale: ScaleOption = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="part of the default name")] = 0,
    name: Annotated[
        str | None,
        typer.Option(help="name of the evolution, which keys every random number; default RECIPE-SCALE-seedN"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="handle for later commands; default runs/<name>")] = None,
    namespace: NamespaceOption = "",
    profile: ProfileOption = "kind-dev",
    pools: PoolsOption = None,
    images: ImagesOption = LOCK,
    unroll: UnrollOption = 1,
    cron: Annotated[
        str | None, typer.Option(help="also schedule the next generations: six cron fields, seconds first")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    tasks: TasksOption = None,
    reward: RewardOption = None,
    scorer: ScorerOption = None,
    wording: WordingOption = None,
    requirements: RequirementsOption = None,
    allow: AllowOption = None,
    accept_check: AcceptOption = False,
    config: Toml = None,
    sets: Sets = None,
) -> None:
    """Start an evolution on Kubeflow: one run per segment, and each run submits the next. It is safe to repeat this."""
    from instar.cli import cluster
    from instar.cli.commands import say_outlook
    from instar.cli.own import bring
    from instar.cli.resolve import resolve
    from instar.kfp.schedule import check_cron

    evolution = name if name is not None else f"{recipe}-{scale}-seed{seed}".replace("_", "-")
    where = cluster.target(profile, pools, images, unroll)
    server = cluster.Server(host=host, namespace=namespace or where.profile.namespace)
    if cron is not None:
        check_cron(cron)
    directory = out or Path("runs") / evolution
    own = own_of_options(tasks, reward, requirements, allow, None, accept_check, scorer, wording)
    with bring(own) as brought:
        resolved = resolve(recipe, scale, model, config, sets or [], device, brought)
        say_outlook(resolved)
        done = cluster.submit(resolved, directory, evolution, store, server, where, brought, seed=seed)
    cluster.say(done)
    if cron:
        say("\n".join(cluster.schedule(store, evolution, server, cron)) + "\n")


def schedule(
    evolution: Annotated[str, typer.Argument(help="name of an evolution that was submitted")],
    store: StoreOption,
    host: HostOption,
    cron: Annotated[str, typer.Option(help="when to begin the next generation: six cron fields, seconds first")],
    tick: Annotated[str | None, typer.Option(help="when to look for a broken chain; default every half hour")] = None,
    namespace: NamespaceOption = "",
) -> None:
    """Set up exactly one schedule that repairs the chain and one that retrains. It is safe to repeat this."""
    from instar.cli import cluster

    server = cluster.Server(host=host, namespace=namespace)
    lines = cluster.schedule(store, evolution, server, cron, tick or cluster.TICK)
    say("\n".join(lines) + "\n")


def status(
    directory: Dir, as_json: Annotated[bool, typer.Option("--json", help="stable, for scripts")] = False
) -> None:
    """Print the head of an evolution on a cluster and the state of its newest run."""
    import json

    from instar.cli import cluster

    facts: dict[str, Any] = cluster.status(directory)
    text = json.dumps(facts, sort_keys=True) if as_json else "\n".join(f"{k:<10} {v}" for k, v in facts.items())
    say(text + "\n")


def stop(directory: Dir, reason: Annotated[str, typer.Option(help="kept in the head")] = "stopped by a person") -> None:
    """Stop an evolution on a cluster: terminate its run and start no further runs."""
    from instar.cli import cluster

    cluster.say(cluster.stop(directory, reason))


def plan(
    recipe: Annotated[str, typer.Argument(help="recipe name")],
    scale: ScaleOption = "paper",
    device: Annotated[
        str | None,
        typer.Option(help="memory and seconds on h200, h100-80g, a100-80g, 24g, or cpu: this machine, probed"),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, help="overhead of a segment on so many GPUs; 0 for CPU pods, which need --work-s"),
    ] = None,
    model_size: Annotated[float | None, typer.Option(help="parameters in billions; default those of the model")] = None,
    work_s: Annotated[
        float | None, typer.Option(help="seconds of work per iteration, if you have measured it; --device predicts it")
    ] = None,
    unroll: UnrollOption = 1,
    allow_overhead: Annotated[bool, typer.Option(help="accept more than 5 % of overhead")] = False,
    model: ModelOption = None,
    config: Toml = None,
    sets: Sets = None,
) -> None:
    """Predict memory and seconds on a device. With --gpus, also predict the overhead on a cluster. Refuse what does not fit."""
    from instar.cli.plan import Asked, main

    asked = Asked(gpus=gpus, model_size=model_size, work_s=work_s, unroll=unroll, allow=allow_overhead)
    raise typer.Exit(main(recipe, scale, model, config, sets or [], device, asked))


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(name="compile")(compile_command)
    for command in (plan, submit, schedule, status, stop):
        app.command()(command)
