"""Chooses the size of the micro-batches for several processes, and predicts the memory of each process."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from instar.artifact import Policy
from instar.components.update import memory
from instar.components.update.batching import shapes
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.update_batch import UpdateBatch

ROUND_TOKENS = 512
"""Cost of gathering the parameters and summing the gradients of one pass, in positions. It is an order of magnitude."""


def split(config: PolicyGradientConfig, data: UpdateBatch, size: int) -> PolicyGradientConfig:
    """Return the configuration with the token budget with which `size` processes finish first. It is at most the given one.

    In a round each process runs one pass. A round takes as long as its largest pass, and every round gathers the whole model.
    Tried are the budget itself, and budgets that divide all tokens evenly over one to four rounds, with some room for uneven
    lengths. Losses do not depend on the budget.
    """
    rows = np.flatnonzero(data.valid)
    tokens = int(data.widths[rows].sum())
    shares = {int(room * tokens / (size * rounds)) for rounds in range(1, 5) for room in (1.0, 1.2, 1.5)}
    tried = [config.micro_batch_tokens, *sorted((s for s in shares if 0 < s < config.micro_batch_tokens), reverse=True)]

    def time(budget: int) -> int:
        passes = [num * width for num, width in shapes(data, rows, budget, config.packing)]
        return sum(ROUND_TOKENS + max(passes[i : i + size]) for i in range(0, len(passes), size))

    return dataclasses.replace(config, micro_batch_tokens=min(tried, key=time))


def decide(
    policy: Policy,
    config: PolicyGradientConfig,
    data: UpdateBatch,
    has_reference: bool,
    device: str,
    size: int,
    held: int = 0,
) -> memory.Plan:
    """Return the plan of each process, for the first choice of checkpointing that fits in all of them.

    If none fits, raise `ConfigError`. `held` bytes of the plan are in this process's memory already.
    """
    free = _free(device, size, held)
    choices = {"on": (True,), "off": (False,), "auto": (False, True)}[config.gradient_checkpointing]
    plans = [plan(policy, config, data, has_reference, choice, size) for choice in choices]
    chosen = next((p for p in plans if p.peak_bytes <= free), plans[-1])
    memory.check(chosen, free, device, config)
    return dataclasses.replace(chosen, reason=f"{free / 2**30:.2f} GiB free for each process")


def _free(device: str, size: int, held: int) -> int:
    """Return the bytes that every process may take: those of the process with the least. On a CPU they share one memory."""
    free = torch.tensor(memory.available_bytes(device) // (size if device == "cpu" else 1) + held, device=device)
    torch.distributed.all_reduce(free, torch.distributed.ReduceOp.MIN)
    return int(free)


def plan(
    policy: Policy, config: PolicyGradientConfig, data: UpdateBatch, has_reference: bool, on: bool, size: int
) -> memory.Plan:
    """Return the plan of one process: its shards, and the parts of the model that a pass gathers.

    A pass gathers the embedding, the head if it is not tied, and two layers at a time, in the number type of the pass. Backward
    adds their gradients in the same type, and once more in the master type while they are summed.
    """
    alone = memory.plan(policy, config, data, has_reference, on)
    shape = policy.read_json("config.json")
    shape = shape.get("text_config", shape)
    num = memory.count_parameters(policy.path)
    depth = int(shape.get("num_hidden_layers") or shape["n_layer"])
    ends = int(shape["vocab_size"]) * int(shape.get("hidden_size") or shape["n_embd"])
    ends = min(num, ends if shape.get("tie_word_embeddings", True) else 2 * ends)
    together = ends + 2 * (num - ends) // max(depth, 1)
    word = 8 if config.dtype == "float64" else 4
    compute = {"float64": 8, "float32": 4, "bfloat16": 2}[config.dtype]
    return dataclasses.replace(
        alone,
        weights_bytes=num * word // size + together * (2 * compute + word),
        trained_bytes=alone.trained_bytes // size,
        reference_bytes=alone.reference_bytes // size + (together * compute if has_reference else 0),
    )
