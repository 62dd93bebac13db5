"""A plan as text: what was chosen, every part of memory in both phases, the seconds of every part of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from instar.pipelines.cost.text import table
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
    lines = [*head, "", *chosen(made), ""]
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
