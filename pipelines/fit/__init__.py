"""Fits a recipe to a named device: engine, slots, share of memory, micro-batches, checkpointing and the place of the moments.

    devices    memory and speed of each device that can be named, for example h100-80g
    work       what a recipe asks of one: weights, tokens, slots
       |
       v
    choice     the settings to choose from  ->  account    the bytes of each part while sampling and while training
                                            ->  seconds    the predicted seconds of a step
       |
       v
    the recipe with the fastest choice that fits

`text` writes a plan in words. `probe` measures the CPU of this machine.

The choice is written into the recipe. So it is in the ledger, and nothing is decided while the recipe runs. A recipe that cannot
fit is refused; the error lists the largest parts in GiB.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from instar.components.rollout import footprint
from instar.errors import ConfigError
from instar.pipelines.fit.account import Account, word_of
from instar.pipelines.fit.choice import Choice, choice_of, part, placed
from instar.pipelines.fit.devices import GIB, Device, of_name
from instar.pipelines.fit.work import work_of
from instar.pipelines.recipe import Recipe

__all__ = ["Account", "Device", "account", "check", "fit", "of_name", "work_of"]

BUDGETS = (65_536, 32_768, 16_384, 8192, 4096, 2048)
"""Sizes of a micro-batch that are tried, in tokens. A micro-batch holds at least the longest row."""
SLOWER = 1.02
"""A choice that takes at most this many times the seconds of the fastest choice is as good as the fastest."""
FEWEST, MOST = 8, 1024
"""Fewest and most slots of a sampler. Their number is a multiple of `FEWEST`."""


def fit(recipe: Recipe, name: str, fixed: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe with a choice that fits on device `name`. Settings that are `fixed`, by stage and key, are not changed.

    Among the choices that take at most `SLOWER` times as long as the fastest one, the one whose training needs the least memory is
    taken. If none fits, raises `ConfigError`, unless `update.allow_over_memory` is set.
    """
    device, told = of_name(name), fixed or {}
    plans = list(accounts(recipe, device, told))
    fitting = [one for one in plans if one.fits]
    if not fitting:
        least = min(plans, key=lambda one: max(one.peaks.values()))
        check(least, device)
        fitting = [least]
    limit = SLOWER * min(one.step_s for one in fitting)
    chosen = min((one for one in fitting if one.step_s <= limit), key=lambda one: (one.peaks["training"], one.step_s))
    return placed(recipe, chosen.choice, device.name, told)


def account(recipe: Recipe, device: Device) -> Account:
    """Return the plan of a recipe with its own settings.

    `gradient_checkpointing=auto` counts as on if the update does not fit without checkpointing.
    """
    work, choice = work_of(recipe), choice_of(recipe)
    word = word_of(work.text.rollout.engine, device.cuda)
    plan = Account(work=work, device=device, choice=choice, word=word)
    if work.text.update.gradient_checkpointing == "auto" and plan.peaks["training"] > device.usable:
        plan = dataclasses.replace(plan, choice=dataclasses.replace(choice, checkpointing=True))
    return plan


def accounts(recipe: Recipe, device: Device, fixed: Mapping[str, Any]) -> Iterator[Account]:
    """Yield the plan of every choice. A setting that is `fixed` has only this one value."""
    work, now = work_of(recipe), choice_of(recipe)
    update, engine = part(fixed, "update"), part(fixed, "rollout", "engine")
    budgets = sorted({max(budget, work.longest) for budget in BUDGETS}, reverse=True)
    tokens = [now.micro_batch_tokens] if "micro_batch_tokens" in update else budgets
    recompute = [False, True]
    if work.text.update.gradient_checkpointing != "auto":
        recompute = [now.checkpointing]
    moments: list[Literal["device", "host"]]
    moments = ["device", "host"] if work.text.update.processes == 1 and "moments" not in update else [now.moments]
    name = now.engine if "name" in engine else "vllm"
    word = word_of(work.text.rollout.engine, device.cuda)
    for budget, on, where in itertools.product(tokens, recompute, moments):
        choice = dataclasses.replace(now, engine=name, micro_batch_tokens=budget, checkpointing=on, moments=where)
        yield sized(Account(work=work, device=device, choice=choice, word=word), now, engine)


def sized(plan: Account, now: Choice, fixed: Mapping[str, Any]) -> Account:
    """Return the plan with as many slots as fit beside what rests on the device.

    vLLM's share of the device is as large as these slots need.
    """
    device, work = plan.device, plan.work
    rows, share = now.max_rows, now.memory_share
    if "max_rows" not in fixed:
        room = device.usable
        if "memory_share" in fixed:
            room = min(room, now.memory_share * device.memory + sum(plan.resting.values()) + device.workspace)
        one, two = (sum(_with(plan, count).rollout.values()) for count in (FEWEST, 2 * FEWEST))
        rows = FEWEST * max(1, 1 + int((room - one) // (two - one)))
        rows = min(rows, MOST, FEWEST * -(-max(work.samples, work.evaluated) // FEWEST))
    plan = _with(plan, rows)
    if plan.choice.engine == "vllm" and "memory_share" not in fixed:
        own = footprint.vllm(work.model, work.sampling(rows), plan.word).peak_bytes
        share = math.ceil(100 * own / device.memory) / 100
    return dataclasses.replace(plan, choice=dataclasses.replace(plan.choice, memory_share=share))


def _with(plan: Account, rows: int) -> Account:
    return dataclasses.replace(plan, choice=dataclasses.replace(plan.choice, max_rows=rows))


def check(plan: Account, device: Device) -> None:
    """Raise `ConfigError` if a phase does not fit. The error lists the largest parts of that phase, and what makes it smaller."""
    phase, peak = max(plan.peaks.items(), key=lambda item: item[1])
    update, recipe = plan.work.text.update, plan.work.recipe
    if peak <= device.usable or update.allow_over_memory:
        return
    parts = plan.training if phase == "training" else plan.rollout
    largest = sorted(parts.items(), key=lambda item: -item[1])[:5]
    wider = {
        "training": "raise update.processes, set update.lora, lower update.micro_batch_tokens",
        "sampling": "lower rollout.engine.max_rows or rollout.max_new_tokens",
    }
    raise ConfigError(
        expected=f"at most {device.usable / GIB:.1f} GiB while {phase} on {device.name}",
        found=f"{peak / GIB:.1f} GiB: " + ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest),
        where=f"plan of {recipe.name} at {recipe.scale}",
        action=f"name a larger --device, {wider[phase]}, or give a smaller --model",
    )
