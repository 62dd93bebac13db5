"""The bfloat16 copy of the model, which runs forward and backward. Its gradients are added up in float32.

    float32 weights (masters) -- refresh, once for each optimiser step -->  bfloat16 copy
            ^                                                                    |
            +-------------- each gradient, as soon as backward has it <----------+

A gradient leaves the copy at once, so the gradients of the whole model never exist in both types.

Why not autocast? It casts every weight again in every micro-batch. It also computes norms and residuals in float32, and the
sampler does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from instar.components.policy_io import cast_copy


class Bfloat16Copy:
    """`model` computes in bfloat16. Gradients of all micro-batches add up in `p.grad` of the masters, in their own type."""

    def __init__(self, master: Any, copy: Any = None) -> None:
        """`copy` may be a model that already holds exactly these weights, rounded."""
        self.model: Any = copy or cast_copy(master, torch.bfloat16, str(master.device)).eval()
        self._masters: list[Tensor] = [p.detach() for p in master.parameters()]
        self._copies: list[nn.Parameter] = list(self.model.parameters())
        self._hooks: list[Any] = [
            q.register_post_accumulate_grad_hook(_into(p))  # type: ignore[no-untyped-call]
            for p, q in zip(master.parameters(), self._copies, strict=True)
            if q.requires_grad
        ]

    def refresh(self) -> None:
        """Copy the values of the masters."""
        with torch.no_grad():
            for copy, master in zip(self._copies, self._masters, strict=True):
                copy.copy_(master)

    def release(self) -> None:
        """Separate the copy from its masters. It is an ordinary model then."""
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
