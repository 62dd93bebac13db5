"""Chooses how the op runs and says why: `choose` returns the choice, `selected_logprob` runs it.

`auto` takes the Triton kernels for CUDA tensors where they can run and the chunked form everywhere else, and its reason
says which and why. A named backend that cannot run is a `ConfigError`: nothing falls back silently.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from torch import Tensor

from instar.errors import ConfigError
from instar.kernels.logprob import chunked, reference
from instar.kernels.logprob.budget import CHUNK_LOGITS, SLICE_BYTES

Backend = Literal["auto", "triton", "chunked", "reference"]
SLICE_COLUMNS = 128
"""Such a slice is a multiple of this many words, or the whole vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs and why. `peak_bytes` counts the logits-sized buffers of one direction.

    `chunk` is what exists of the logits at once: for `triton` words of the vocabulary, of all tokens and in backward
    alone; for the others tokens, over the whole vocabulary.
    """

    backend: Literal["triton", "chunked", "reference"]
    reason: str
    chunk: int
    peak_bytes: int


def choose(
    num_tokens: int,
    vocabulary: int,
    *,
    chunk: int = 0,
    backend: Backend = "auto",
    itemsize: int = 4,
    device: str = "cpu",
) -> Choice:
    """Return the choice for a call of `num_tokens` tokens on a type of device, `itemsize` bytes a number.

    `chunk` tokens' worth of logits may exist at once; 0 means `CHUNK_LOGITS`, or `SLICE_BYTES` for `triton`.
    """
    tokens = max(num_tokens, 1)
    wide = max(itemsize, 4)
    if backend == "reference":
        return Choice(
            backend="reference", reason="named by the caller", chunk=tokens, peak_bytes=4 * tokens * vocabulary * wide
        )
    refusal = _triton_refusal(device, itemsize) if backend == "triton" or device == "cuda" else ""
    if backend == "triton" and refusal:
        raise ConfigError(
            expected="a backend that can run here",
            found=f"triton: {refusal}",
            where="logprob:backend",
            action="use `auto` or `chunked`, or install the extra `gpu` on a machine with a CUDA device",
        )
    if backend == "triton" or (backend == "auto" and device == "cuda" and not refusal):
        budget = chunk * vocabulary if chunk else SLICE_BYTES // itemsize
        columns = min(vocabulary, max(1, budget // tokens // SLICE_COLUMNS) * SLICE_COLUMNS)
        reason = "named by the caller" if backend == "triton" else "CUDA tensors, and Triton is there"
        return Choice(backend="triton", reason=reason, chunk=columns, peak_bytes=tokens * columns * itemsize)
    size = min(chunk or max(1, CHUNK_LOGITS // vocabulary), tokens)
    reason = "its memory does not grow with the number of tokens" + (f"; {refusal}" if refusal else "")
    return Choice(
        backend="chunked",
        reason="named by the caller" if backend == "chunked" else reason,
        chunk=size,
        peak_bytes=2 * size * vocabulary * wide,
    )


def _triton_refusal(device: str, itemsize: int) -> str:
    """Return why the Triton kernels cannot run; empty if they can."""
    try:
        return str(_triton().refusal(device, itemsize))
    except Exception as error:  # a Triton that does not fit its driver fails in many ways when it is imported
        return f"Triton cannot be imported ({type(error).__name__}: {error})"


def _triton() -> ModuleType:
    return importlib.import_module("instar.kernels.logprob.triton_logprob")


def selected_logprob(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    chunk: int = 0,
    backend: Backend = "auto",
    entropy_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy, both [M]. hidden [M, H], weight [V, H], bias [V] or None, targets [M]."""
    choice = choose(
        hidden.shape[0],
        weight.shape[0],
        chunk=chunk,
        backend=backend,
        itemsize=hidden.element_size(),
        device=hidden.device.type,
    )
    if choice.backend == "reference":
        logp, entropy = reference.selected_logprob(hidden, weight, bias, targets)
        return logp, entropy if entropy_grad else entropy.detach()
    if choice.backend == "triton":
        result: tuple[Tensor, Tensor] = _triton().selected_logprob(
            hidden, weight, bias, targets, choice.chunk, entropy_grad
        )
        return result
    return chunked.selected_logprob(hidden, weight, bias, targets, choice.chunk, entropy_grad)
