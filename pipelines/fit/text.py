"""A plan as text: what was chosen, every part of memory in both phases, the seconds of every part of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from instar.pipelines.cost.text import table
from instar.pipelines.fit import BUDGETS
from instar.pipelines.fit.account import Account
from instar.pipelines.fit.devices import GIB


def render(made: Account) -> str:
    """Return the plan as lines of at most 120 columns."""
    recipe, device, model = made.work.recipe, made.device, made.work.model
    head = (
        f"{recipe.name} {recipe.scale} on {device.name} ({device.title}, {device.memory / GIB:.1f} GiB; {device.source})",
        f"{model.parameters / 1e9:.3g}B parameters, {model.cache_bytes(made.word) / 1024:.3g} KiB of keys and values a token",
        f"{made.work.samples} answers of at most {made.work.new} tokens to {made.work.groups} prompts of at most "
        f"{made.work.prompt}; update by {made.processes} process{'es' * (made.processes > 1)}",
    )
    lines = [*head, "", *chosen(made), *reasons(made), ""]
    for phase, parts in (("sampling", made.rollout), ("training", made.training)):
        lines += [*_memory(phase, parts), ""]
    lines += _seconds(made)
    return "\n".join(lines) + "\n"


def chosen(made: Account) -> list[str]:
    """Return the settings that depend on the device."""
    c, engine = made.choice, f"engine {made.choice.engine}, {made.choice.max_rows} slots"
    share = f", {c.memory_share:.0%} of the device" if c.engine == "vllm" else ""
    again = "on" if c.checkpointing else "off"
    away = f", moments on the {c.moments}" if made.device.cuda else ""
    return [
        f"{engine}{share}",
        f"micro-batches of {c.micro_batch_tokens} tokens ({made.batch.passes} passes a step), checkpointing {again}{away}",
    ]


def reasons(made: Account) -> list[str]:
    """Return which part decides how full the device is, and what larger micro-batches would change; nothing on a CPU."""
    if not made.device.cuda:
        return []
    phase, parts = max(
        (("sampling", made.rollout), ("training", made.training)), key=lambda pair: sum(pair[1].values())
    )
    name, size = max(parts.items(), key=lambda part: part[1])
    largest = f"largest part: {name}, {size / GIB:.1f} of {sum(parts.values()) / GIB:.1f} GiB while {phase}"
    if phase == "sampling" and made.choice.moments == "host":
        largest += f"; it has the room of the moments ({made.training['moments'] / GIB:.1f} GiB)"
    return [largest, *_larger_passes(made)]


def _larger_passes(made: Account) -> list[str]:
    tokens = min((budget for budget in BUDGETS if budget > made.choice.micro_batch_tokens), default=0)
    if not tokens:
        return []
    choice = dataclasses.replace(made.choice, micro_batch_tokens=tokens)
    larger = dataclasses.replace(made, choice=choice)
    need = f"would need {larger.peaks['training'] / GIB:.1f} of {made.device.usable / GIB:.1f} GiB while training"
    return [f"micro-batches of {tokens} tokens {need}, and save {1 - larger.step_s / made.step_s:.1%} of a step"]


def _memory(phase: str, parts: Mapping[str, float]) -> list[str]:
    rows: list[Sequence[object]] = [[f"while {phase}", "GiB"]]
    rows += [[name, f"{size / GIB:.2f}"] for name, size in parts.items()]
    return table([*rows, ["in all", f"{sum(parts.values()) / GIB:.2f}"]])


def _seconds(made: Account) -> list[str]:
    rows: list[Sequence[object]] = [["an inner step", "s"]]
    steps, loop = made.work.recipe.inner_steps, made.work.recipe.iterations
    found = {k: v for k, v in made.step_seconds.items() if v} | {"in all": made.step_s}
    found["evaluation after an iteration"] = made.evaluation_s
    found[f"an iteration of {steps} step{'s' * (steps > 1)} and an evaluation"] = made.iteration_s
    rows += [[name, _number(value)] for name, value in found.items()]
    return table([*rows, [f"all {loop} iterations, in hours", _number(loop * made.iteration_s / 3600)]])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"
