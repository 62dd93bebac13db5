"""Inputs of the selective scan, its gradients for fixed upstream ones, and a comparison relative to the largest entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scan = Callable[..., tuple[Tensor, Tensor]]
NAMES = ("u", "delta", "A", "B", "C", "D", "h0")


def case(shape: tuple[int, int, int, int], skip: bool = True, start: bool = True, seed: int = 0) -> list[Tensor | None]:
    """Return u, delta, A, B, C, D and h0 in float64."""
    b, length, e, n = shape
    g = torch.Generator().manual_seed(seed + sum(shape))
    u, delta, B, C = (torch.randn(b, length, w, generator=g, dtype=torch.float64) for w in (e, e, n, n))
    A = -4 * torch.rand(e, n, generator=g, dtype=torch.float64)
    D = torch.randn(e, generator=g, dtype=torch.float64) if skip else None
    h0 = torch.randn(b, e, n, generator=g, dtype=torch.float64) if start else None
    return [u, torch.nn.functional.softplus(delta), A, B, C, D, h0]


def grads(
    scan: Scan, inputs: list[Tensor | None], dtype: torch.dtype = torch.float64, through: str = "both"
) -> list[Tensor]:
    """Return y, the last state and the gradients of every input, for fixed upstream gradients."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in inputs]
    y, last = scan(*leaves)
    g = torch.Generator().manual_seed(7)
    up_y, up_last = (torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype) for x in (y, last))
    parts = {"y": (y * up_y).sum(), "last": (last * up_last).sum()}
    loss = parts["y"] + parts["last"] if through == "both" else parts[through]
    found = torch.autograd.grad(loss, [x for x in leaves if x is not None], allow_unused=True, materialize_grads=True)
    return [y.detach(), last.detach(), *found]


def close(ours: list[Tensor], true: list[Tensor], bound: float) -> None:
    """Compare each tensor relative to the largest entry of the true one."""
    for number, (a, b) in enumerate(zip(ours, true, strict=True)):
        assert a.shape == b.shape
        error = float((a.detach().double() - b.detach().double()).abs().max()) / max(
            float(b.detach().abs().max()), 1e-6
        )
        assert error <= bound, f"output {number}: {error:.2e}"
