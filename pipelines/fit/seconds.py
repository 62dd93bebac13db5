"""Predicts how long the parts of one inner step take on a device: reading prompts, decoding tokens, the update.

A decode step streams all weights once, and the cache of all live rows. The time of training is that of its arithmetic. The rates
that a GPU reaches are in `devices`. Those of a CPU are measured (`probe`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from instar.components.architecture import Architecture
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.footprint import ATTENTION_WIDTH, COMPUTE, ROW_WIDTH, master_bytes
from instar.pipelines.fit.devices import Device
from instar.pipelines.fit.work import Work

STREAMED = 7
"""Numbers of the master type that a step of Adam moves per weight: it reads weight, gradient and two moments, and writes three."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """`samples` answers to `groups` prompts of `prompt` tokens.

    An answer has `mean` tokens on average and at most `longest`. `rows` answers are sampled at once.
    """

    samples: int
    groups: int
    prompt: float
    mean: float
    longest: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What an update computes: positions in passes of `width` columns, action tokens, passes, optimiser steps."""

    positions: float
    width: float
    tokens: float
    passes: int
    steps: int


def read_s(model: Architecture, device: Device, asked: Answers) -> float:
    """Return the seconds of reading every prompt once. The head computes logits for its last token only."""
    tokens = asked.groups * asked.prompt
    flops = 2 * model.layers * model.layer_parameters + attention_flops(model, asked.prompt)
    return tokens * flops / device.rates.read + 2 * asked.groups * model.head_parameters / device.rates.head


def decode_s(model: Architecture, device: Device, asked: Answers, word: int) -> float:
    """Return the seconds of all decode steps. When an answer ends, the next one takes its row."""
    if not asked.samples:
        return 0.0
    rows, rates = min(asked.rows, asked.samples), device.rates
    steps = max(asked.longest, asked.samples * asked.mean / rows)
    live = asked.samples * asked.mean / steps
    body = model.layers * model.layer_parameters
    arithmetic = 2 * live * (body / rates.decode + model.head_parameters / rates.head)
    streamed = (body + model.head_parameters) * word / rates.weights
    cache = live * (asked.prompt + asked.mean / 2) * model.cache_bytes(word) / rates.weights
    return steps * (max(arithmetic, streamed) + cache + rates.step_s)


def update_s(
    model: Architecture, device: Device, batch: Batch, config: PolicyGradientConfig, checkpointing: bool
) -> float:
    """Return the seconds of all passes of an update, including those without gradient.

    A backward pass costs as much as two forward passes, and checkpointing costs one more. The head computes its logits a second
    time in the backward pass.
    """
    several, referred = batch.steps > 1, config.kl.place != "none"
    alone = several + referred  # passes without gradient: old log-probabilities, and those of the reference
    body = 2 * model.layers * model.layer_parameters + attention_flops(model, batch.width)
    trained = batch.positions * body * (3 + checkpointing) * config.epochs / device.rates.train
    judged = batch.positions * body * alone / device.rates.read
    head = 2 * batch.tokens * model.head_parameters * (4 * config.epochs + alone) / device.rates.head
    return trained + judged + head + batch.passes * device.rates.pass_s


def optimizer_s(model: Architecture, device: Device, config: PolicyGradientConfig, steps: int, share: float) -> float:
    """Return the seconds of Adam's steps, and of refreshing the bfloat16 copy."""
    numbers = model.parameters * share / max(_processes(config), 1)
    copied = (master_bytes(config) + COMPUTE[config.dtype]) * (config.dtype == "bfloat16")
    return steps * numbers * (STREAMED * master_bytes(config) + copied) / device.rates.copy


def attention_flops(model: Architecture, width: float) -> float:
    """Return the FLOP of attention in the forward pass, for one position of a causal row of `width` positions."""
    return 2 * model.layers * width * model.heads * model.head_dim


def batch_of(work: Work, config: PolicyGradientConfig, budget: int) -> Batch:
    """Return the update of a step in which all answers have the mean length. `packing=auto` takes the cheaper layout."""
    prompt, mean = work.mean_prompt, work.mean
    alone = (work.samples * (prompt + mean), prompt + mean)
    shared = (work.groups * prompt + work.samples * mean, max(float(ROW_WIDTH), prompt + mean))
    choices = {"none": [alone], "sequence": [(alone[0], shared[1])], "prefix": [shared], "auto": [alone, shared]}
    positions, width = min(choices[config.packing], key=lambda layout: layout[0] * (1 + layout[1] / ATTENTION_WIDTH))
    rows = max(1, int(budget // width))
    return Batch(
        positions=positions,
        width=width,
        tokens=work.samples * mean,
        passes=config.epochs * math.ceil(positions / (rows * width)),
        steps=config.epochs * config.minibatches,
    )


def _processes(config: PolicyGradientConfig) -> int:
    return config.processes if isinstance(config.processes, int) else 1
