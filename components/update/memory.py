"""Compares the predicted peak memory of an update with what is free, before a weight is loaded.

`footprint` says what is counted. The prediction was compared with the growth of the process in whole updates of SmolLM2-135M
(vocabulary 49,152) on a CPU. Predicted over measured was 1.01 (bfloat16, 656 positions), 1.02 (2048 positions), 1.08
(checkpointing), 1.11 (float32) and 0.98 (adapters).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.artifact import Policy
from instar.components.policy_io import MODEL, RESIDENT
from instar.components.update import footprint
from instar.components.update.batching import shapes
from instar.components.update.footprint import SIZES, Passes
from instar.components.update.footprint import Plan as Plan  # what `plan` returns is named here, too
from instar.components.update.learner import device
from instar.components.update.resident_state import REFERENCE, TRAINER
from instar.components.update.update_batch import UpdateBatch
from instar.contract import PERF, Metrics
from instar.errors import ConfigError
from instar.memory_limits import address_space_left
from instar.resident import Resident

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


def plan(
    policy: Policy, config: PolicyGradientConfig, data: UpdateBatch, has_reference: bool, checkpointing: bool
) -> Plan:
    """Return the prediction for `data`. Sizes come from `config.json` and from the headers of the weight files."""
    shape = sizes(policy.read_json("config.json"))
    passes = shapes(data, np.flatnonzero(data.valid), config.micro_batch_tokens, config.packing)
    largest = max(passes, key=lambda shape: shape[0] * shape[1], default=(1, 1))
    return footprint.plan(
        shape,
        count_parameters(policy.path),
        config,
        Passes(
            positions=largest[0] * largest[1],
            masked_width=0 if config.packing == "none" else largest[1],
            tokens=len(data.behaviour),
            count=len(passes),
        ),
        has_reference,
        checkpointing,
        device(config),
    )


def decide(
    policy: Policy, config: PolicyGradientConfig, data: UpdateBatch, has_reference: bool, device: str, held: int = 0
) -> Plan:
    """Return the plan for the configured `gradient_checkpointing`. `auto` takes the first that fits: off, then on.

    If none fits into the free memory, raise `ConfigError`. `held` bytes of the plan are in memory already (`held_bytes`).
    """
    free = available_bytes(device) + held
    choices = {"on": (True,), "off": (False,), "auto": (False, True)}[config.gradient_checkpointing]
    plans = [plan(policy, config, data, has_reference, checkpointing=choice) for choice in choices]
    chosen = next((p for p in plans if p.peak_bytes <= free), plans[-1])
    check(chosen, free, device, config)
    other = "" if len(plans) == 1 else f", {plans[0].peak_bytes / 2**30:.2f} without" if chosen.checkpointing else ""
    how = "named" if len(plans) == 1 else "too much without" if chosen.checkpointing else "fits without"
    return dataclasses.replace(chosen, reason=f"{how}: {free / 2**30:.2f} GiB free{other}")


def held_bytes(resident: Resident, digests: Collection[str], device: str) -> int:
    """Return the bytes on `device` of the resident models, copies and trainer states of `digests`.

    Storage that two tensors share is counted once.
    """
    seen: dict[int, int] = {}
    for digest in digests:
        state = resident.get(TRAINER, digest)
        models = [
            resident.get(MODEL, digest),
            resident.get(REFERENCE, digest),
            None if state is None else state.masters,
        ]
        tensors = [p for model in models if model is not None for p in model.parameters()]
        tensors += [*state.tensors.values(), *state.base.values()] if state is not None else []
        for tensor in tensors:
            if tensor.device.type == device:
                storage = tensor.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def line(predicted: Plan, packing: str) -> str:
    """Return the prediction and the choices in one line, for the progress display."""
    on = "on" if predicted.checkpointing else "off"
    return (
        f"predicted peak {predicted.peak_bytes / 2**30:.2f} GiB, packing {packing}, "
        f"checkpointing {on} ({predicted.reason})"
    )


def sizes(record: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes `SIZES` from a `config.json`. Families have other names for them, such as `n_embd` or `d_model`."""
    from transformers import CONFIG_MAPPING

    text = record.get("text_config", record)
    kind = text.get("model_type", record.get("model_type", ""))
    family: Any = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (`get` of this mapping sees nothing)
    own = getattr(family, "attribute_map", {})
    shape = {name: text.get(name) or text.get(own.get(name)) for name in SIZES}
    shape["intermediate_size"] = shape["intermediate_size"] or text.get("ffn_dim") or 4 * (shape["hidden_size"] or 0)
    absent = [name for name in SIZES if not shape[name]]
    if absent:
        raise ConfigError(
            expected=f"{', '.join(SIZES)} of the model, because its memory is predicted from them",
            found=f"no {absent[0]}",
            where=f"config.json of model type {kind!r}",
            action="use a causal language model of transformers",
        )
    return shape


def count_parameters(folder: Path) -> int:
    """Return the number of weights, from the safetensors headers. A policy without files has it in its record."""
    from safetensors import safe_open

    if (folder / RESIDENT).is_file():
        return int(json.loads((folder / RESIDENT).read_text())["num_parameters"])
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def available_bytes(device: str) -> int:
    """Return how much memory this process may still take.

    On a CUDA device that is what is free there. On a CPU it is the smallest of what the machine has free, what the control group
    allows, and what the limit of the address space leaves.
    """
    if device == "cuda":
        import torch

        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # the allocator holds it for this process
        return int(torch.cuda.mem_get_info()[0]) + unused
    free = [_meminfo()]
    if (mappable := address_space_left()) is not None:
        free.append(mappable)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free.append(int(limit.read_text()) - int(used.read_text()))
    return min(free)


def _meminfo() -> int:
    lines = Path("/proc/meminfo")
    if not lines.is_file():
        import os

        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    entry = next(line for line in lines.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(entry.split()[1]) * 1024


def check(predicted: Plan, free: int, device: str, config: PolicyGradientConfig) -> None:
    """Raise `ConfigError` if the prediction is above `free` bytes, unless the configuration allows it."""
    if predicted.peak_bytes > free and not config.allow_over_memory:
        remedy = (
            "set update.lora" if predicted.checkpointing else "set update.gradient_checkpointing=auto or update.lora"
        )
        raise ConfigError(
            expected=f"at most {free / 2**30:.2f} GiB on {device}",
            found=f"a predicted peak of {predicted.peak_bytes / 2**30:.2f} GiB "
            f"(activations {predicted.activation_bytes / 2**30:.2f}, logits {predicted.logits_bytes / 2**30:.2f})",
            where="update.micro_batch_tokens",
            action=f"lower it, {remedy}, or set update.allow_over_memory=true",
        )


def metrics(predicted: Plan) -> Metrics:
    """Return the prediction and the choice. They depend on what is free, so they are measurements of the machine."""
    return {
        f"{PERF}predicted_peak_bytes": float(predicted.peak_bytes),
        f"{PERF}gradient_checkpointing": float(predicted.checkpointing),
    }
