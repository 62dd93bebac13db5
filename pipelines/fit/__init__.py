"""Fits a recipe to a named device: engine, slots, share of memory, micro-batches, checkpointing and where the moments rest.

    devices    memory and speed of each device that can be named, for example h100-80g
    work       what a recipe asks of one: weights, tokens, slots
       |
       v
    choice     the settings to choose from  ->  account    the bytes of each part while sampling and while training
                                            ->  seconds    the predicted seconds of a step
       |
       v
    the recipe with the fastest choice that fits; `text` says it in words, `probe` measures the CPU of this machine

The choice is written into the recipe. So it stands in the ledger, and nothing is decided while the recipe runs. A recipe that
cannot fit is refused, with the bytes of each part.
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
"""Tokens of a micro-batch that are tried; at least the longest row."""
SLOWER = 1.02
FEWEST, MOST = 8, 1024
"""Slots of a sampler; multiples of `FEWEST`."""


def fit(recipe: Recipe, name: str, given: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe with a choice for device `name` that fits; what was `given`, by stage and key, stays.

    Of the choices that take at most `SLOWER` more seconds than the fastest, the one whose training takes least memory.
    Raises `ConfigError` with the parts when none fits, unless `update.allow_over_memory`.
    """
    device, told = of_name(name), given or {}
    found = list(accounts(recipe, device, told))
    fitting = [one for one in found if one.fits]
    if not fitting:
        least = min(found, key=lambda one: max(one.peaks.values()))
        check(least, device)
        fitting = [least]
    limit = SLOWER * min(one.step_s for one in fitting)
    chosen = min((one for one in fitting if one.step_s <= limit), key=lambda one: (one.peaks["training"], one.step_s))
    return placed(recipe, chosen.choice, device.name, told)


def account(recipe: Recipe, device: Device) -> Account:
    """Return the plan of a recipe as it stands; `gradient_checkpointing=auto` is on where the update does not fit without."""
    work, choice = work_of(recipe), choice_of(recipe)
    word = word_of(work.text.rollout.engine, device.cuda)
    made = Account(work=work, device=device, choice=choice, word=word)
    if work.text.update.gradient_checkpointing == "auto" and made.peaks["training"] > device.usable:
        made = dataclasses.replace(made, choice=dataclasses.replace(choice, checkpointing=True))
    return made


def accounts(recipe: Recipe, device: Device, given: Mapping[str, Any]) -> Iterator[Account]:
    """Yield the plan of every choice; a given value is the only one."""
    work, now = work_of(recipe), choice_of(recipe)
    update, engine = part(given, "update"), part(given, "rollout", "engine")
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


def sized(made: Account, now: Choice, given: Mapping[str, Any]) -> Account:
    """Return the plan with as many slots as fit beside what rests, and vLLM's share of the device that holds them."""
    device, work = made.device, made.work
    rows, share = now.max_rows, now.memory_share
    if "max_rows" not in given:
        room = device.usable
        if "memory_share" in given:
            room = min(room, now.memory_share * device.memory + sum(made.resting.values()) + device.workspace)
        one, two = (sum(_with(made, count).rollout.values()) for count in (FEWEST, 2 * FEWEST))
        rows = FEWEST * max(1, 1 + int((room - one) // (two - one)))
        rows = min(rows, MOST, FEWEST * -(-max(work.samples, work.evaluated) // FEWEST))
    made = _with(made, rows)
    if made.choice.engine == "vllm" and "memory_share" not in given:
        own = footprint.vllm(work.model, work.sampling(rows), made.word).peak_bytes
        share = math.ceil(100 * own / device.memory) / 100
    return dataclasses.replace(made, choice=dataclasses.replace(made.choice, memory_share=share))


def _with(made: Account, rows: int) -> Account:
    return dataclasses.replace(made, choice=dataclasses.replace(made.choice, max_rows=rows))


def check(made: Account, device: Device) -> None:
    """Raise `ConfigError` that names the parts of the phase that does not fit, the largest first, and what lowers it."""
    phase, peak = max(made.peaks.items(), key=lambda found: found[1])
    update, recipe = made.work.text.update, made.work.recipe
    if peak <= device.usable or update.allow_over_memory:
        return
    parts = made.training if phase == "training" else made.rollout
    largest = sorted(parts.items(), key=lambda found: -found[1])[:5]
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
