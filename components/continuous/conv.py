"""Causal depthwise convolution over [B, L, E]. It adds shifted and weighted copies of the input, one per tap.

The scan reads the same layout [B, L, E]. `conv1d` would need two transpositions. On a CPU this function takes less than half of the
time of `conv1d` with its transpositions, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _CausalConv(torch.autograd.Function):
    """y[:, t] = bias + sum_k weight[:, W-1-k] * u[:, t-k], with zeros in front of the first step."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        taps = weight.t().contiguous()
        width, length = taps.shape[0], u.shape[1]
        y = torch.addcmul(bias, u, taps[-1])
        for k in range(1, min(width, length)):
            y[:, k:].addcmul_(u[:, : length - k], taps[-1 - k])
        ctx.save_for_backward(u, taps)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (u, taps), (grad,) = ctx.saved_tensors, grad_outputs
        width, length = taps.shape[0], u.shape[1]
        grad_u = grad * taps[-1]
        grad_taps = torch.zeros_like(taps)
        grad_taps[-1] = (grad * u).sum((0, 1))
        for k in range(1, min(width, length)):
            grad_u[:, : length - k].addcmul_(grad[:, k:], taps[-1 - k])
            grad_taps[-1 - k] = (grad[:, k:] * u[:, : length - k]).sum((0, 1))
        return grad_u, grad_taps.t(), grad.sum((0, 1))


def causal_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of u [B, L, E] with weight [E, W], plus bias [E]. The last tap is that of the current step."""
    return _CausalConv.apply(u, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
