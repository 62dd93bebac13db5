"""The command line. At start-up only the standard library and typer are imported. Each command imports what it needs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from instar.border import ended
from instar.cli.cluster_app import (
    LOCK,
    AcceptOption,
    AllowOption,
    DeviceOption,
    RequirementsOption,
    RewardOption,
    ScorerOption,
    TasksOption,
    WordingOption,
    own_of_options,
    register,
)
from instar.errors import ConfigError

app = typer.Typer(
    name="instar",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around the help would double the time of `instar --help`
    context_settings={"max_content_width": 120},
    help="Self-evolving training as a pipeline: a policy acts, is scored, learns, and chooses what it tries next.",
)

Sets = Annotated[list[str] | None, typer.Option("--set", help="change one value, for example update.lr=1e-4")]
Toml = Annotated[Path | None, typer.Option("--config", help="TOML file of differences to the recipe")]
Data = Annotated[
    Path | None, typer.Option("--data", help="logged episodes to learn from: Parquet, Minari or D4RL (decision_mamba)")
]
Env = Annotated[
    str, typer.Option("--env", help="gymnasium's id of the environment of --data, unless its files name it")
]
Mode = Literal["inprocess", "subprocess"]
RunMode = Literal["inprocess", "subprocess", "containers"]
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
Dir = Annotated[Path, typer.Argument(help="evolution directory")]
ScaleOption = Annotated[str, typer.Option(help="tiny, small, single or paper")]
Out = Annotated[Path | None, typer.Option("--out", help="evolution directory; default runs/<name>")]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="recipe name; see `instar recipes`")],
    scale: ScaleOption = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="keys every random number of the run")] = 0,
    out: Out = None,
    store: Annotated[
        str | None, typer.Option(help="store URI, a directory or s3://bucket/prefix; default inside --out")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="base checkpoint in place of the recipe's own: folder or hub id")
    ] = None,
    from_run: Annotated[
        str | None,
        typer.Option("--from", help="start from the champion of this run: a directory, or the URI of a store"),
    ] = None,
    mode: Annotated[
        RunMode, typer.Option(help="subprocess: each stage in a process of its own; containers: in a Docker container")
    ] = "inprocess",
    images: Annotated[Path, typer.Option(help="lock of image digests, for containers")] = LOCK,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow URI; default a SQLite file in --out; 'off' for none")
    ] = None,
    device: DeviceOption = None,
    tasks: TasksOption = None,
    reward: RewardOption = None,
    scorer: ScorerOption = None,
    wording: WordingOption = None,
    requirements: RequirementsOption = None,
    allow: AllowOption = None,
    accept_check: AcceptOption = False,
    data: Data = None,
    env: Env = "",
    reuse: Annotated[
        Path | None,
        typer.Option(help="directory of the same recipe and seed, whose results are taken over where equal"),
    ] = None,
    config: Toml = None,
    sets: Sets = None,
) -> None:
    """Run a recipe: progress here, ledger and report.html in --out. Running it again resumes."""
    from instar.cli import commands, offline

    sets = offline.with_data(recipe, scale, data, env, sets or [])
    own = own_of_options(tasks, reward, requirements, allow, from_run, accept_check, scorer, wording)
    if mode == "containers":
        if reuse is not None:
            raise ConfigError(
                expected="--mode inprocess or subprocess, because containers record their own results",
                found="--mode containers",
                where=f"--reuse {reuse}",
                action="leave --reuse out, or choose another mode",
            )
        commands.run_in_containers(recipe, scale, seed, out, store, model, images, tracking, config, sets, device, own)
        return
    if images != LOCK:
        raise ConfigError(
            expected="--mode containers, because only this mode uses images",
            found=f"--mode {mode}",
            where=f"--images {images}",
            action="leave --images out, or add --mode containers",
        )
    commands.run(recipe, scale, seed, out, store, model, mode, tracking, config, sets, device, own, reuse)


@app.command()
def resume(
    directory: Dir,
    mode: Annotated[Mode, typer.Option(help="subprocess runs each stage in a process of its own")] = "inprocess",
    tracking: Annotated[str | None, typer.Option(help="MLflow URI or 'off'")] = None,
    accept_code: Annotated[
        bool, typer.Option(help="continue although the code changed since the run was opened")
    ] = False,
) -> None:
    """Continue an evolution exactly where its ledger ends. On a cluster, start its next run."""
    from instar.cli import commands

    commands.resume(directory, mode, tracking, accept_code)


@app.command()
def show(directory: Dir, as_json: Annotated[bool, typer.Option("--json", help="stable, for scripts")] = False) -> None:
    """Print the state of an evolution: its iteration, policy, champion and metrics."""
    from instar.cli import show as shown

    shown.show(directory, as_json)


@app.command()
def diff(left: Dir, right: Dir) -> None:
    """Compare two evolutions entry by entry, and the code that they ran with. The exit code is 1 when they differ."""
    from instar.cli import show as shown

    raise typer.Exit(shown.diff(left, right))


@app.command()
def check(
    entries: Annotated[
        list[str],
        typer.Argument(help="reward functions as for --reward, or one curriculum class; for example rew.py:reward"),
    ],
    tasks: Annotated[
        Path | None, typer.Option(help="file of rows, or a folder of `instar import`; a reward is checked on them")
    ] = None,
    style: Annotated[
        Literal["whole", "line", "boxed", "tag"], typer.Option(help="where in a completion the answer stands")
    ] = "whole",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the report as quality.json")] = None,
    requirements: Annotated[
        Path | None, typer.Option(help="lock with hashes of packages that the reward needs")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="network or processes: what the reward may do beyond computing")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="stable, for scripts")] = False,
) -> None:
    """Check a reward or a curriculum before any training. The exit code is 0 when it is sound, 1 when a finding is red."""
    from instar.cli import check as checks

    raise typer.Exit(checks.check(entries, tasks, style, out, requirements, allow or [], as_json))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="evolution directory, or STORE/evolutions/NAME")],
    iteration: Annotated[
        int, typer.Option("--iteration", "-k", min=0, help="0 is the beginning: data and first policy")
    ],
    stage: Annotated[str, typer.Option(help="only this stage, for example reward")] = "",
) -> None:
    """Run an iteration again from its recorded inputs and compare. The exit code is 0 when equal, 1 when different."""
    from instar.cli import replay as replayed

    raise typer.Exit(replayed.replay(run, iteration, stage))


@app.command()
def report(directory: Dir) -> None:
    """Write report.html of an evolution again."""
    from instar.cli import commands

    commands.report(directory)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="evolution directory, or URI of a store with /evolutions/NAME")],
    out: Annotated[Path, typer.Option("--out", "-o", help="new or empty folder")],
    policy: Annotated[str, typer.Option(help="champion, last, or an iteration; 0 is the base")] = "champion",
    merge_lora: Annotated[
        bool, typer.Option("--merge-lora", help="merged weights instead of the adapter of a run with LoRA")
    ] = False,
    push: Annotated[
        str | None, typer.Option(help="also upload to this repository of a hub, OWNER/NAME, with your own login")
    ] = None,
) -> None:
    """Write a policy as a Hugging Face folder: weights, tokenizer, and a model card made from the ledger."""
    from instar.cli import export as exported

    exported.export(run, out, policy, merge_lora, push)


@app.command()
def recipes() -> None:
    """List the recipes and their scales."""
    from instar.cli import commands

    commands.list_recipes()


@app.command()
def data(
    environment: Annotated[
        str, typer.Argument(help="id in gymnasium, with a box of states and of actions; for example Hopper-v5")
    ],
    out: Annotated[Path, typer.Option("--out", help="new folder: a Parquet file and a Minari data set per tier")],
    steps: Annotated[int, typer.Option(min=1, help="environment steps of the training run")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="keys every random number")] = 0,
    seconds: Annotated[float | None, typer.Option(help="stop training after so long")] = None,
) -> None:
    """Train in a simulator and record data: random, medium-replay (the training run), medium and, if reached, expert."""
    from instar.cli import commands

    commands.make_data(environment, out, steps, seed, seconds)


@app.command(name="import")
def import_rows(
    path: Annotated[str, typer.Argument(help="file or folder of JSONL, CSV, Parquet, saved data set, or a hub id")],
    out: Annotated[Path, typer.Option("--out", "-o", help="new folder for the tasks; `--tasks` of a run takes it")],
    prompt: Annotated[str, typer.Option(help="column of the prompts; a field of a struct is written a.b")] = "",
    answer: Annotated[str, typer.Option(help="column of the right answers")] = "",
    arm: Annotated[str, typer.Option(help="column with a label: each label is an arm of the curriculum")] = "",
    level: Annotated[str, typer.Option(help="column with the difficulty, as numbers or words")] = "",
    split: Annotated[str, typer.Option(help="column with train, val, test or ood")] = "",
    drop: Annotated[list[str] | None, typer.Option(help="a column to leave out; repeatable")] = None,
    form: Annotated[Literal["text", "chat"], typer.Option(help="chat: put prompts into the model's template")] = "text",
    val: Annotated[float, typer.Option(help="share of the rows that the gate compares policies on")] = 0.1,
    test: Annotated[float, typer.Option(help="share of the rows that are only tested")] = 0.1,
    duplicates: Annotated[Literal["refuse", "drop"], typer.Option(help="what to do with rows that repeat")] = "refuse",
    conflicts: Annotated[
        Literal["refuse", "drop", "keep"], typer.Option(help="what to do with a prompt that has two answers")
    ] = "refuse",
) -> None:
    """Turn rows of prompts and answers into task pools. The columns are guessed from their names, and the guess is printed."""
    from instar.cli import importing
    from instar.components.dataset_prep.imported.columns import Columns
    from instar.components.dataset_prep.imported.importer import Options
    from instar.components.dataset_prep.imported.splits import Shares

    columns = Columns(prompt=prompt, answer=answer, arm=arm, level=level, split=split, drop=tuple(drop or ()))
    shares = Shares(val=val, test=test)
    importing.run(
        path, out, Options(columns=columns, form=form, shares=shares, duplicates=duplicates, conflicts=conflicts)
    )


@app.command()
def explain(
    recipe: str,
    scale: ScaleOption = "tiny",
    model: Annotated[
        str | None, typer.Option(help="base checkpoint in place of the recipe's own: folder or hub id")
    ] = None,
    device: DeviceOption = None,
    tasks: TasksOption = None,
    reward: RewardOption = None,
    scorer: ScorerOption = None,
    wording: WordingOption = None,
    requirements: RequirementsOption = None,
    allow: AllowOption = None,
    data: Data = None,
    env: Env = "",
    config: Toml = None,
    sets: Sets = None,
) -> None:
    """Print the resolved objective, and the equivalent options of TRL, verl and OpenRLHF."""
    from instar.cli import commands, offline

    sets = offline.with_data(recipe, scale, data, env, sets or [])
    own = own_of_options(tasks, reward, requirements, allow, scorer=scorer, wording=wording)
    commands.explain(recipe, scale, model, config, sets, device, own)


@app.command()
def evaluate(
    policy: Annotated[
        Path, typer.Argument(help="evolution directory whose champion is the candidate, or a policy folder")
    ],
    against: Annotated[
        str, typer.Option(help="evolution directory (its champion), policy folder, or `champion`: the registry's alias")
    ],
    suite: Annotated[str, typer.Option(help="recipe whose tasks are used; default that of the evolution")] = "",
    scale: Annotated[str, typer.Option(help="scale of the suite; default that of the evolution")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow URI of the registry; default the one inside the evolution directory")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="also write a page for people to this file")] = None,
    sets: Sets = None,
) -> None:
    """Compare two policies on the same tasks. The exit code is 0 for better or equal, 3 for worse, 2 for could not tell."""
    from instar.cli import compare

    raise typer.Exit(compare.evaluate(policy, against, suite, scale, seed, tracking, sets or [], markdown))


@app.command()
def promote(directory: Dir, tracking: Annotated[str | None, typer.Option(help="MLflow URI")] = None) -> None:
    """Move the registry's champion alias to this evolution's champion. This is refused unless the policy passed the gate."""
    from instar.cli import commands

    commands.promote(directory, tracking)


@app.command()
def doctor(
    store: Annotated[str | None, typer.Option(help="also run the twenty checks on this store")] = None,
) -> None:
    """Print which scales this machine can run, and what is missing for the others."""
    from instar.cli import doctor as checks

    raise typer.Exit(checks.main(store))


@app.command(context_settings=_PASS_ON, help="Run one stage: the entry point of every stage container.")
def stage(context: typer.Context) -> None:
    """Run one stage."""
    from instar.pipelines import stage_command

    raise typer.Exit(stage_command.main(context.args))


@app.command(context_settings=_PASS_ON, help="Run a control task of a pipeline: open, gate, advance or tick.")
def control(context: typer.Context) -> None:
    """Run a control task."""
    from instar.pipelines.chain import control_command

    raise typer.Exit(control_command.main(context.args))


@app.command(
    context_settings=_PASS_ON, help="Run a command as the first process of a container: retry, signals, stall."
)
def supervise(context: typer.Context) -> None:
    """Watch a command."""
    from instar.pipelines.supervise import pid1

    raise typer.Exit(pid1.main(context.args))


register(app)


def main() -> None:
    """Run the command line. Every way to end has an exit code of docs/errors.md."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr is absent or has no file descriptor
        faulthandler.enable()  # if a library ends the process by a signal, this prints the stack
    raise SystemExit(ended(app))


if __name__ == "__main__":
    main()
