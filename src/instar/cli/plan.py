"""`instar plan`: memory and seconds of a recipe on a device, and the overhead of a run on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instar.cli.resolve import resolve
from instar.errors import ConfigError
from instar.pipelines import cost, fit
from instar.pipelines.fit import devices
from instar.pipelines.fit.text import render
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method
from instar.terminal import say


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions about a run on a cluster. Without `gpus` there are none."""

    gpus: int | None
    model_size: float | None
    work_s: float | None
    unroll: int
    allow: bool


def main(
    name: str, scale: str, model: str | None, file: Path | None, sets: Sequence[str], device: str | None, asked: Asked
) -> int:
    """Print the plans that were asked for, then refuse what does not fit or has too much overhead. Return 0."""
    unused = [
        option
        for option, value in (
            ("--model-size", asked.model_size),
            ("--work-s", asked.work_s),
            ("--unroll", asked.unroll != 1),
        )
        if value and asked.gpus is None
    ]
    if unused:
        raise ConfigError(
            expected="--gpus, the number of GPUs of a segment",
            found=f"{unused[0]} without --gpus",
            where="instar plan",
            action=f"add --gpus N, or leave {unused[0]} out",
        )
    planned = device in devices.DEVICES and bool(method(name).recipe(scale, model).device)
    recipe = resolve(name, scale, model, file, sets, device if planned else None)
    account = None
    if device is not None or asked.gpus is None:
        account = fit.account(recipe, where(recipe, device))
        say(render(account))
        fit.check(account, account.device)
    if asked.gpus is None:
        return 0
    size = asked.model_size or fit.work_of(recipe).model.parameters / 1e9
    seconds = asked.work_s
    if seconds is None and account is not None and account.processes == asked.gpus:
        seconds = account.iteration_s
    say("\n" if account else "")
    return cost.main(recipe, asked.gpus, size, seconds, asked.unroll, asked.allow)


def where(recipe: Recipe, device: str | None) -> fit.Device:
    """Return the named device. If none is named, return the device that the recipe is planned for, or this machine."""
    name = device or recipe.device or devices.CPU
    if name != devices.CPU:
        return devices.of_name(name)
    if recipe.device:
        raise ConfigError(
            expected=f"a GPU ({', '.join(devices.DEVICES)}), because {recipe.name} at {recipe.scale} samples with vLLM",
            found=name,
            where="--device",
            action="name one of these GPUs",
        )
    from instar.pipelines.fit import probe

    work = fit.work_of(recipe)
    rows = min(work.text.rollout.engine.max_rows, work.samples)
    return probe.cpu(work.model, work.text.update.dtype, rows, recipe.threads)
