"""The bfloat16 copy that runs forward and backward, and how its gradients reach the float32 weights.

Autocast would cast every weight again in every micro-batch and compute norms and residuals in float32, which the sampler
does not. The copy is refreshed once per optimizer step. Each parameter's gradient is added to its master's in float32 as
soon as backward has made it, and dropped: the gradients of two types never exist whole at the same time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from instar.components.policy_io import cast_copy


class Bfloat16Copy:
    """`model` computes in bfloat16; `p.grad` of the masters' parameters gathers over micro-batches in their own type."""

    def __init__(self, master: Any, copy: Any = None) -> None:
        """`copy` is the rounded model of exactly these weights, where there is one already."""
        self.model: Any = copy or cast_copy(master, torch.bfloat16, str(master.device)).eval()
        self._masters: list[Tensor] = [p.detach() for p in master.parameters()]
        self._copies: list[nn.Parameter] = list(self.model.parameters())
        self._hooks: list[Any] = [
            q.register_post_accumulate_grad_hook(_into(p))  # type: ignore[no-untyped-call]
            for p, q in zip(master.parameters(), self._copies, strict=True)
            if q.requires_grad
        ]

    def refresh(self) -> None:
        """Take over the masters' values."""
        with torch.no_grad():
            for copy, master in zip(self._copies, self._masters, strict=True):
                copy.copy_(master)

    def release(self) -> None:
        """Part the copy from its masters: from here on it is a model of its own."""
        for hook in self._hooks:
            hook.remove()


def _into(master: nn.Parameter) -> Any:
    def add(copy: Tensor) -> None:
        if copy.grad is not None:
            if master.grad is None:
                master.grad = copy.grad.to(master.dtype)
            else:
                master.grad.add_(copy.grad)
            copy.grad = None

    return add
