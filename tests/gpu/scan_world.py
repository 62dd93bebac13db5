"""Arguments of the selective scan and its comparison with the reference, for the cases of the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.children import close
from instar.kernels.selective_scan import reference
from instar.kernels.selective_scan.triton_scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "h0")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def inputs(
    batch: int, length: int, channels: int, states: int, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return random arguments; time constants from a fraction of a step to hundreds of steps."""
    g = torch.Generator().manual_seed(length * 1000 + channels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    found = {
        "u": normal(batch, length, channels),
        "delta": (normal(batch, length, channels) - 2).exp(),
        "A": -normal(channels, states).exp(),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "h0": normal(batch, channels, states),
    }
    keep = {"A": torch.float32, "D": torch.float32, "h0": torch.float32}
    return {k: x.to(keep.get(k, dtype)).to(device).requires_grad_() for k, x in found.items()}


def exact(args: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same numbers in float64 on the CPU."""
    return {k: x.detach().cpu().double().requires_grad_() for k, x in args.items()}


def compare(args: dict[str, Tensor], tolerance: float, *, use_y: bool = True, use_last: bool = True) -> None:
    """Assert equal results and equal gradients of every argument, for random gradients of y and h_last."""
    truth = exact(args)
    g = torch.Generator().manual_seed(7)
    up_y = torch.randn(args["u"].shape, generator=g, dtype=torch.float64)
    up_last = torch.randn(len(args["u"]), *args["A"].shape, generator=g, dtype=torch.float64)
    sides = []
    for values, op in ((args, selective_scan), (truth, reference.selective_scan)):
        y, last = op(**values)
        loss = y.new_zeros((), dtype=torch.float32)
        if use_y:
            loss = loss + (y * up_y.to(y)).sum()
        if use_last:
            loss = loss + (last * up_last.to(last)).sum()
        sides.append([y, last, *torch.autograd.grad(loss, list(values.values()), allow_unused=True)])
    assert sides[0][0].dtype == args["u"].dtype and sides[0][1].dtype == torch.float32
    for name, ours, theirs in zip(("y", "h_last", *args), *sides, strict=True):
        close(ours.cpu(), torch.zeros(ours.shape) if theirs is None else theirs, tolerance, name)
    for name, grad in zip(args, sides[0][2:], strict=True):
        assert grad.dtype == args[name].dtype, name
