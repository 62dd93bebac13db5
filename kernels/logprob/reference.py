"""The definition of the op: plain torch, any floating type, autograd through the whole logits.

Shapes: M tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def selected_logprob(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy, both [M], of the softmax over `hidden @ weight.T + bias`.

    hidden [M, H] and weight [V, H] share a floating type, bias [V] or None, targets [M] int64. The product is rounded
    to the input type, as a model's own head does; the softmax runs in float32, or float64 for float64 inputs.
    """
    logits = functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
    return logprobs.gather(1, targets[:, None]).squeeze(1), entropy
