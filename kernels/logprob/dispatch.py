"""Chooses how the op runs and says why: `choose` returns the choice, `selected_logprob` runs it.

Nothing falls back silently: the chunked form is used unless the reference is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from instar.kernels.logprob import chunked, reference

Backend = Literal["auto", "chunked", "reference"]
CHUNK_LOGITS = 2**22
"""Logits of one chunk when the caller does not say: 16 MiB in float32, two such buffers at the peak."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs and why. `peak_bytes` counts the logits-sized buffers of one direction, in softmax type."""

    backend: Literal["chunked", "reference"]
    reason: str
    chunk: int
    peak_bytes: int


def choose(num_tokens: int, vocabulary: int, *, chunk: int = 0, backend: Backend = "auto", itemsize: int = 4) -> Choice:
    """Return the choice for a call of `num_tokens` tokens. `chunk` 0 means as many tokens as fit `CHUNK_LOGITS`."""
    if backend == "reference":
        size = max(num_tokens, 1)
        return Choice(
            backend="reference", reason="named by the caller", chunk=size, peak_bytes=4 * size * vocabulary * itemsize
        )
    size = chunk or max(1, CHUNK_LOGITS // vocabulary)
    size = min(size, max(num_tokens, 1))
    reason = "named by the caller" if backend == "chunked" else "its memory does not grow with the number of tokens"
    return Choice(backend="chunked", reason=reason, chunk=size, peak_bytes=2 * size * vocabulary * itemsize)


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
    choice = choose(hidden.shape[0], weight.shape[0], chunk=chunk, backend=backend, itemsize=hidden.element_size())
    if choice.backend == "reference":
        logp, entropy = reference.selected_logprob(hidden, weight, bias, targets)
        return logp, entropy if entropy_grad else entropy.detach()
    return chunked.selected_logprob(hidden, weight, bias, targets, choice.chunk, entropy_grad)
