"""Predicts what an update holds in memory, from sizes alone. It needs neither weights nor torch.

`memory` asks for the prediction of a batch. The plan of a recipe asks for that of the longest batch that may come.

It counts
    weights, gradients and Adam's two moments, in the master type
    the bfloat16 copy, if the forward pass computes in bfloat16
    the frozen reference model
    activations that one micro-batch keeps for backward
    logits of one tile in two buffers, and the gradient of the head
    the batch
    what the allocator holds beside the tensors, on a CPU
    a fixed part for workspaces and libraries
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instar.kernels.logprob.budget import CHUNK_LOGITS

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

FIXED_BYTES = 3 * 2**26
HEAP = 0.4
"""Share of the activations of one pass that glibc still holds during the next, because gradients lie between freed tensors.

Measured. With MALLOC_MMAP_THRESHOLD_=1048576 it was 0.
"""
HOLES = 2
"""Number of feed-forward tensors for each layer whose room glibc cannot use again when layers are recomputed (`hole_bytes`).

Measured as 1.6 to 2.1 on layers whose inner width is 2.7 hidden widths, in passes of 512 to 4,096 positions (glibc 2.36).
If the inner width is the hidden width, it was 7.8, so `hole_bytes` is too small there.
"""
MAPPED_BYTES = 2**25
"""A tensor of this size or more leaves no hole: glibc maps it outside of the heap (largest value of M_MMAP_THRESHOLD)."""
SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
ROW_WIDTH = 1024
"""Largest width W of a packed row, unless a sequence is longer. A mask has W^2 entries for each row."""
ATTENTION_WIDTH = 1150
"""Row width at which attention costs a position as much as all the rest of the model (`batching.cost`)."""
COMPUTE = {"float64": 8, "float32": 4, "bfloat16": 2}
"""Bytes of one number in the forward pass."""
POSITION_BYTES, TOKEN_BYTES = 16, 56
"""Bytes of the batch: for each position its id and place; for each action token four indices and what the loss reads."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by cause, for the settings that were chosen. Of `trained_bytes` a third are gradients and the rest moments."""

    weights_bytes: int
    trained_bytes: int
    reference_bytes: int
    activation_bytes: int
    logits_bytes: int
    batch_bytes: int = 0
    heap_bytes: int = 0
    checkpointing: bool
    reason: str = ""

    @property
    def peak_bytes(self) -> int:
        """All of it together. That is the moment at the end of the largest forward pass."""
        model = self.weights_bytes + self.trained_bytes + self.reference_bytes
        passes = self.activation_bytes + self.logits_bytes + self.batch_bytes + self.heap_bytes
        return FIXED_BYTES + model + passes


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Sizes of the forward passes of a batch."""

    positions: int
    """of the largest pass"""
    count: int = 1
    """number of passes between two optimiser steps, or without gradient"""
    masked_width: int = 0
    """row width of the largest pass if it has a mask, else 0"""
    tokens: int = 0
    """action tokens of the batch"""


def plan(
    shape: Mapping[str, Any],
    num_parameters: int,
    config: PolicyGradientConfig,
    passes: Passes,
    has_reference: bool,
    checkpointing: bool,
    device: str = "cpu",
) -> Plan:
    """Return the prediction for a model with these `SIZES` on a device, `cpu` or `cuda`."""
    word, compute = master_bytes(config), COMPUTE[config.dtype]
    share = 1.0 if config.lora is None else lora_share(shape, config, num_parameters)
    copies = compute if config.dtype == "bfloat16" else 0
    per_token = activation_bytes_per_token(shape, compute, checkpointing, config.lora is not None)
    vocabulary = int(shape["vocab_size"])
    at_once = config.logprob_chunk or max(1, CHUNK_LOGITS // vocabulary)
    return Plan(
        weights_bytes=num_parameters * (word + copies),
        trained_bytes=int(3 * word * num_parameters * share),
        reference_bytes=num_parameters * compute if has_reference else 0,
        activation_bytes=passes.positions * per_token,
        logits_bytes=2 * min(at_once, passes.positions) * vocabulary * word + head_gradient_bytes(shape, config),
        batch_bytes=batch_bytes(passes, compute),
        heap_bytes=heap_bytes(shape, passes, per_token, compute, checkpointing) if device == "cpu" else 0,
        checkpointing=checkpointing,
    )


def master_bytes(config: PolicyGradientConfig) -> int:
    """Return the bytes of one weight. A gradient has as many, and each of the two moments too."""
    return 8 if config.dtype == "float64" else 4


def batch_bytes(passes: Passes, word: int) -> int:
    """Return the bytes of the inputs of the largest pass, and of all action tokens.

    A mask is counted twice: as truth values, and as the numbers that plain attention adds.
    """
    mask = passes.positions * passes.masked_width * (1 + word)
    return passes.positions * POSITION_BYTES + mask + passes.tokens * TOKEN_BYTES


def activation_bytes_per_token(shape: Mapping[str, Any], word: int, checkpointing: bool, adapters: bool) -> int:
    """Return the bytes that backward keeps for each token.

    For each layer these are about 12 tensors of the hidden width and 4 of the feed-forward width. Adapters on all layers add 18
    tensors of the hidden width. With checkpointing each layer keeps one tensor of the hidden width, and one whole layer exists
    while it is recomputed. Attention is computed in blocks, so it keeps no matrix of width squared.
    """
    hidden, layers, inner = (int(shape[name]) for name in SIZES[:3])
    layer = ((30 if adapters else 12) * hidden + 4 * inner) * word
    return hidden * word * layers + layer if checkpointing else layers * layer


def heap_bytes(shape: Mapping[str, Any], passes: Passes, per_token: int, word: int, checkpointing: bool) -> int:
    """Return what glibc holds beside the tensors: a share `HEAP` of the previous pass's activations, and the holes."""
    between_passes = int(HEAP * passes.positions * per_token) if passes.count > 1 else 0
    return between_passes + (hole_bytes(shape, passes.positions, word) if checkpointing else 0)


def hole_bytes(shape: Mapping[str, Any], positions: int, word: int) -> int:
    """Return the bytes of the holes in the heap when layers are recomputed.

    They are layers x `HOLES` x feed-forward width x positions x bytes of a number. A layer's feed-forward part has three
    tensors of its inner width at once (gate, up and their product). They are freed when the layer ends, but its output stays,
    in the room of one of them. What is left of that room is too small for the tensors of the next layer, so the heap grows.

    Example: 30 layers, width 1,536, 2,048 positions in float32 leave 0.70 GiB. In the forward pass of an update of that size
    the free part of the heap grew from 0.06 to 0.72 GiB.
    """
    layers, inner = int(shape["num_hidden_layers"]), int(shape["intermediate_size"])
    tensor = positions * inner * word
    return layers * HOLES * tensor if tensor < MAPPED_BYTES else 0


def head_gradient_bytes(shape: Mapping[str, Any], config: PolicyGradientConfig) -> int:
    """Return the bytes of the gradient of the output matrix. There is none if only adapters are trained."""
    if config.lora is not None:
        return 0
    return int(shape["vocab_size"]) * int(shape["hidden_size"]) * master_bytes(config)


def lora_share(shape: Mapping[str, Any], config: PolicyGradientConfig, num_parameters: int) -> float:
    """Return an upper bound for the share of adapter parameters in the model's parameters."""
    assert config.lora is not None
    hidden, layers, inner = (int(shape[name]) for name in SIZES[:3])
    adapters = layers * (len(config.lora.targets) or 7) * config.lora.r * (hidden + max(hidden, inner))
    return min(1.0, adapters / max(num_parameters, 1))
