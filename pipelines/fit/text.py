"""Writes a plan as text: the choice, every part of memory in both phases, and the seconds of every part of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from instar.pipelines.cost.text import table
from instar.pipelines.fit import BUDGETS
from instar.pipelines.fit.account import Account
from instar.pipelines.fit.devices import GIB


def render(plan: Account) -> str:
    """Return the plan as lines of at most 120 columns."""
    recipe, device, model = plan.work.recipe, plan.device, plan.work.model
    head = (
        f"{recipe.name} {recipe.scale} on {device.name} ({device.title}, {device.memory / GIB:.1f} GiB; {device.source})",
        f"{model.parameters / 1e9:.3g}B parameters, {model.cache_bytes(plan.word) / 1024:.3g} KiB of keys and values a token",
        f"{plan.work.samples} answers of at most {plan.work.new} tokens to {plan.work.groups} prompts of at most "
        f"{plan.work.prompt}; update by {plan.processes} process{'es' * (plan.processes > 1)}",
    )
    lines = [*head, "", *chosen(plan), *reasons(plan), ""]
    for phase, parts in (("sampling", plan.rollout), ("training", plan.training)):
        lines += [*_memory(phase, parts), ""]
    lines += _seconds(plan)
    return "\n".join(lines) + "\n"


def chosen(plan: Account) -> list[str]:
    """Return the settings that depend on the device."""
    c, engine = plan.choice, f"engine {plan.choice.engine}, {plan.choice.max_rows} slots"
    share = f", {c.memory_share:.0%} of the device" if c.engine == "vllm" else ""
    again = "on" if c.checkpointing else "off"
    away = f", moments on the {c.moments}" if plan.device.cuda else ""
    return [
        f"{engine}{share}",
        f"micro-batches of {c.micro_batch_tokens} tokens ({plan.batch.passes} passes a step), checkpointing {again}{away}",
    ]


def reasons(plan: Account) -> list[str]:
    """Return the largest part of memory, and what larger micro-batches would change. Return no lines on a CPU."""
    if not plan.device.cuda:
        return []
    phase, parts = max(
        (("sampling", plan.rollout), ("training", plan.training)), key=lambda pair: sum(pair[1].values())
    )
    name, size = max(parts.items(), key=lambda part: part[1])
    largest = f"largest part: {name}, {size / GIB:.1f} of {sum(parts.values()) / GIB:.1f} GiB while {phase}"
    if phase == "sampling" and plan.choice.moments == "host":
        largest += f"; it has the room of the moments ({plan.training['moments'] / GIB:.1f} GiB)"
    return [largest, *_larger_passes(plan)]


def _larger_passes(plan: Account) -> list[str]:
    tokens = min((budget for budget in BUDGETS if budget > plan.choice.micro_batch_tokens), default=0)
    if not tokens:
        return []
    choice = dataclasses.replace(plan.choice, micro_batch_tokens=tokens)
    larger = dataclasses.replace(plan, choice=choice)
    need = f"would need {larger.peaks['training'] / GIB:.1f} of {plan.device.usable / GIB:.1f} GiB while training"
    return [f"micro-batches of {tokens} tokens {need}, and save {1 - larger.step_s / plan.step_s:.1%} of a step"]


def _memory(phase: str, parts: Mapping[str, float]) -> list[str]:
    rows: list[Sequence[object]] = [[f"while {phase}", "GiB"]]
    rows += [[name, f"{size / GIB:.2f}"] for name, size in parts.items()]
    return table([*rows, ["in all", f"{sum(parts.values()) / GIB:.2f}"]])


def _seconds(plan: Account) -> list[str]:
    rows: list[Sequence[object]] = [["an inner step", "s"]]
    steps, loop = plan.work.recipe.inner_steps, plan.work.recipe.iterations
    seconds = {k: v for k, v in plan.step_seconds.items() if v} | {"in all": plan.step_s}
    seconds["evaluation after an iteration"] = plan.evaluation_s
    seconds[f"an iteration of {steps} step{'s' * (steps > 1)} and an evaluation"] = plan.iteration_s
    rows += [[name, _number(value)] for name, value in seconds.items()]
    return table([*rows, [f"all {loop} iterations, in hours", _number(loop * plan.iteration_s / 3600)]])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"
