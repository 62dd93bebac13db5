"""What an update holds in memory, by cause, from sizes alone: no weights, no torch. `memory` asks it about a batch, a recipe's
plan about the longest batch that can come.

Counted: weights, gradients and two moments in the master type; the copy that computes in bfloat16; the frozen reference;
activations kept for backward by one micro-batch; logits of one tile in two buffers with the head's gradient; the batch; and a
fixed part for workspaces and libraries.
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
"""Of the activations, what glibc keeps of one pass beside the next, where gradients lie between freed tensors. Measured; with
MALLOC_MMAP_THRESHOLD_=1048576 it was 0."""
HOLES = 2
"""Feed-forward tensors a layer whose room glibc cannot use again in a forward pass with recomputation (`hole_bytes`).
Measured as 1.6 to 2.1 on layers whose inner width is 2.7 hidden widths, in passes of 512 to 4,096 positions (glibc 2.36).
Where the inner width is the hidden width it was 7.8, so `hole_bytes` is too small there."""
MAPPED_BYTES = 2**25
"""glibc maps a tensor from this size on by itself, so that it leaves no hole (M_MMAP_THRESHOLD's largest value)."""
SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
ROW_WIDTH = 1024
"""Packed rows are at most this wide, or as wide as the longest sequence: a mask has W^2 entries per row."""
ATTENTION_WIDTH = 1150
"""Row width at which attention costs as much as all the rest of a position (`batching.cost`)."""
COMPUTE = {"float64": 8, "float32": 4, "bfloat16": 2}
"""Bytes of a number of the forward pass."""
POSITION_BYTES, TOKEN_BYTES = 16, 56
"""Of a batch: ids and places per position; four indices and what the loss reads per action token."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Bytes by cause, of the settings that were chosen. `trained_bytes` are gradients, a third, and moments."""

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
        """Everything at once, at the end of the longest forward pass."""
        model = self.weights_bytes + self.trained_bytes + self.reference_bytes
        passes = self.activation_bytes + self.logits_bytes + self.batch_bytes + self.heap_bytes
        return FIXED_BYTES + model + passes


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The largest forward pass in positions, its width where a mask is made for it (0 without), the batch's action tokens.

    `count` passes are made between two optimiser steps or without gradient."""

    positions: int
    count: int = 1
    masked_width: int = 0
    tokens: int = 0


def plan(
    shape: Mapping[str, Any],
    num_parameters: int,
    config: PolicyGradientConfig,
    passes: Passes,
    has_reference: bool,
    checkpointing: bool,
    device: str = "cpu",
) -> Plan:
    """Return the prediction for a model of these `SIZES` on a `device`, cpu or cuda."""
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
    """Return the bytes of a weight, a gradient and each of two moments."""
    return 8 if config.dtype == "float64" else 4


def batch_bytes(passes: Passes, word: int) -> int:
    """Return the bytes of the largest pass' inputs, with its mask as truth values and as numbers, and of all action tokens."""
    mask = passes.positions * passes.masked_width * (1 + word)
    return passes.positions * POSITION_BYTES + mask + passes.tokens * TOKEN_BYTES


def activation_bytes_per_token(shape: Mapping[str, Any], word: int, checkpointing: bool, adapters: bool) -> int:
    """Return what backward keeps per token: per layer about 12 hidden-sized and 4 feed-forward-sized tensors.

    Adapters add what they read and make beside the layers, 18 hidden-sized tensors when they are on all of them.
    With checkpointing one hidden-sized tensor per layer stays, plus one whole layer while it is recomputed. Blockwise
    attention keeps no matrix of width squared.
    """
    hidden, layers, inner = (int(shape[name]) for name in SIZES[:3])
    layer = ((30 if adapters else 12) * hidden + 4 * inner) * word
    return hidden * word * layers + layer if checkpointing else layers * layer


def heap_bytes(shape: Mapping[str, Any], passes: Passes, per_token: int, word: int, checkpointing: bool) -> int:
    """Return what glibc holds beside the tensors: of the pass before, `HEAP` of its activations, and the holes."""
    between_passes = int(HEAP * passes.positions * per_token) if passes.count > 1 else 0
    return between_passes + (hole_bytes(shape, passes.positions, word) if checkpointing else 0)


def hole_bytes(shape: Mapping[str, Any], positions: int, word: int) -> int:
    """Return layers x `HOLES` x feed-forward width x positions x bytes of a number: the heap's holes when layers are recomputed.

    A layer's feed-forward part has three tensors of its inner width at once (gate, up and their product). They are freed
    when the layer ends, but its output stays: it lies in the room of one of them. What is left there is too small for the
    next layer's tensors, so the heap grows. Example: 30 layers, width 1,536, 2,048 positions in float32 leave 0.70 GiB. In
    the forward pass of an update of that size the free part of the heap grew from 0.06 to 0.72 GiB.
    """
    layers, inner = int(shape["num_hidden_layers"]), int(shape["intermediate_size"])
    tensor = positions * inner * word
    return layers * HOLES * tensor if tensor < MAPPED_BYTES else 0


def head_gradient_bytes(shape: Mapping[str, Any], config: PolicyGradientConfig) -> int:
    """Return the gradient of the output matrix while it is handed to autograd; none when adapters alone train."""
    if config.lora is not None:
        return 0
    return int(shape["vocab_size"]) * int(shape["hidden_size"]) * master_bytes(config)


def lora_share(shape: Mapping[str, Any], config: PolicyGradientConfig, num_parameters: int) -> float:
    """Return an upper bound of adapter parameters over model parameters."""
    assert config.lora is not None
    hidden, layers, inner = (int(shape[name]) for name in SIZES[:3])
    adapters = layers * (len(config.lora.targets) or 7) * config.lora.r * (hidden + max(hidden, inner))
    return min(1.0, adapters / max(num_parameters, 1))
