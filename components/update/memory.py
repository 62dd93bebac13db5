"""Predicts the peak memory of an update from the model's configuration, before a weight is loaded.

Counted: weights, gradients and two moments in the master type; the frozen reference; activations kept for backward by
one micro-batch; logits of one chunk in two buffers; and a fixed part for workspaces, file pages and copies while
loading and saving. The fixed part was fitted at 17 million parameters, where five settings (2048 to 8192 tokens,
packing, checkpointing, bfloat16) then lay within 12 % of the measured growth of the process; the slope per token was
within 5 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.artifact import Policy
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.experience import Experience
from instar.contract import Metrics
from instar.errors import ConfigError

FIXED_BYTES = 2**29


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by cause."""

    weights_bytes: int
    trained_bytes: int
    reference_bytes: int
    activation_bytes: int
    logits_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Everything at once, at the end of the longest forward pass."""
        model = self.weights_bytes + self.trained_bytes + self.reference_bytes
        return FIXED_BYTES + model + self.activation_bytes + self.logits_bytes


def plan(policy: Policy, config: PolicyGradientConfig, data: Experience, has_reference: bool) -> Plan:
    """Return the prediction for `data`; sizes come from the headers of the weight files and from `config.json`."""
    shape = policy.read_json("config.json")
    shape = shape.get("text_config", shape)
    num_parameters = count_parameters(policy.path)
    width = int(data.widths.max()) if len(data.group) else 1
    positions = max(width, min(config.micro_batch_tokens, int(data.widths.sum()) if len(data.group) else 1))
    word = 8 if config.dtype == "float64" else 4
    share = 1.0 if config.lora is None else lora_share(shape, config, num_parameters)
    vocabulary = int(shape["vocab_size"])
    rows = config.logprob_chunk or max(1, 2**22 // vocabulary)
    return Plan(
        weights_bytes=num_parameters * word,
        trained_bytes=int(3 * word * num_parameters * share),
        reference_bytes=num_parameters * word if has_reference else 0,
        activation_bytes=positions * activation_bytes_per_token(shape, config),
        logits_bytes=2 * min(rows, positions) * vocabulary * word,
    )


def activation_bytes_per_token(shape: dict[str, Any], config: PolicyGradientConfig) -> int:
    """Return what backward keeps per token: per layer about 14 hidden-sized and 4 feed-forward-sized tensors.

    With checkpointing one hidden-sized tensor per layer stays, plus one whole layer while it is recomputed. Blockwise
    attention keeps no matrix of width squared.
    """
    hidden = int(shape.get("hidden_size") or shape["n_embd"])
    layers = int(shape.get("num_hidden_layers") or shape["n_layer"])
    inner = int(shape.get("intermediate_size") or shape.get("n_inner") or 4 * hidden)
    word = {"float64": 8, "float32": 4, "bfloat16": 3}[config.dtype]
    layer = (14 * hidden + 4 * inner) * word
    return hidden * word * layers + layer if config.gradient_checkpointing else layers * layer


def lora_share(shape: dict[str, Any], config: PolicyGradientConfig, num_parameters: int) -> float:
    """Return an upper bound of adapter parameters over model parameters."""
    assert config.lora is not None
    hidden = int(shape.get("hidden_size") or shape["n_embd"])
    inner = int(shape.get("intermediate_size") or 4 * hidden)
    layers = int(shape.get("num_hidden_layers") or shape["n_layer"])
    adapters = layers * len(config.lora.targets) * config.lora.r * (hidden + max(hidden, inner))
    return min(1.0, adapters / max(num_parameters, 1))


def count_parameters(folder: Path) -> int:
    """Return the number of stored weights, from the safetensors headers alone."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def available_bytes(device: str) -> int:
    """Return the memory this process may still take: of the device, or of the machine within its control group."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    free = [_meminfo()]
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


def check(predicted: Plan, device: str, config: PolicyGradientConfig) -> None:
    """Raise `ConfigError` when the prediction is above what is free, unless the configuration allows it."""
    free = available_bytes(device)
    if predicted.peak_bytes > free and not config.allow_over_memory:
        raise ConfigError(
            expected=f"at most {free / 2**30:.2f} GiB on {device}",
            found=f"a predicted peak of {predicted.peak_bytes / 2**30:.2f} GiB "
            f"(activations {predicted.activation_bytes / 2**30:.2f}, logits {predicted.logits_bytes / 2**30:.2f})",
            where="update.micro_batch_tokens",
            action="lower it, set gradient_checkpointing or lora, or set allow_over_memory",
        )


def metrics(predicted: Plan) -> Metrics:
    """Return the prediction as a metric."""
    return {"memory/predicted_peak_bytes": float(predicted.peak_bytes)}
