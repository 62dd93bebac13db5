"""The op through mamba-ssm's CUDA kernel, when that package is installed, has the function and passes a check here.

The package is found by its function, not by its name: several releases come without the kernel, and importing them
without it raises. Its kernel knows no initial state, gives no gradient through the last state, and adds dA, dB, dC and
dD with atomics, so gradients of equal inputs differ in their last bits from run to run.
Shapes: B sequences, L steps, E channels, N state entries per channel; the kernel wants [B, E, L] and [B, N, L].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from instar.errors import ConfigError
from instar.kernels.selective_scan import reference

MODULE = "mamba_ssm.ops.selective_scan_interface"
TOLERANCE = 1e-4
"""Largest difference that the check accepts, relative to the largest entry of the reference."""


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N]; arguments, values and types of the reference.

    An initial state, float64, a tensor that is not on CUDA or a package that fails the check is a `ConfigError`, and so
    is a backward pass through the last state.
    """
    reason = obstacle(u.device, u.dtype, h0 is not None)
    if reason:
        raise _refused(reason, "name another backend")
    return run(import_module(MODULE).selective_scan_fn, u, delta, A, B, C, D)


def run(
    function: Callable[..., Any], u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Call `function` in its own layout: delta, B and C in the type of u, A and D in float32, no softplus."""
    tall = [x.to(u.dtype).transpose(1, 2).contiguous() for x in (u, delta, B, C)]
    skip = None if D is None else D.float()
    y, last = function(
        tall[0], tall[1], A.float(), tall[2], tall[3], skip, delta_softplus=False, return_last_state=True
    )
    guarded: Tensor = _NoGradient.apply(last)  # type: ignore[no-untyped-call]
    return y.transpose(1, 2), guarded


class _NoGradient(torch.autograd.Function):
    """The identity; its backward is an error, where the kernel's own would drop the gradient without a word."""

    @staticmethod
    def forward(_ctx: Any, last: Tensor) -> Tensor:
        return last.float().clone()

    @staticmethod
    def backward(_ctx: Any, *_grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise _refused("a gradient through the last state", "name the backend triton or sliced")


def obstacle(device: torch.device, dtype: torch.dtype, carries_state: bool) -> str:
    """Return why the kernel cannot run such a call, or nothing."""
    if device.type != "cuda":
        return f"it needs CUDA, the tensors are on {device.type}"
    if carries_state:
        return "it takes no initial state"
    if dtype == torch.float64:
        return "it has no float64"
    return probe(device)


@cache
def probe(device: torch.device) -> str:
    """Import the function and check it on `device`, once a process; return what is wrong, or nothing."""
    try:
        function = import_module(MODULE).selective_scan_fn
    except Exception as error:  # a broken installation raises anything from ImportError to a compiler's error
        return f"{MODULE}.selective_scan_fn does not import ({type(error).__name__}: {error})"
    return check(function, device)


def check(function: Callable[..., Any], device: torch.device) -> str:
    """Compare `function` with the reference on a small call, outputs and gradients; return what is wrong, or nothing."""
    generator = torch.Generator().manual_seed(0)
    u, delta, B, C, up = (torch.randn(2, 7, n, generator=generator) for n in (6, 6, 3, 3, 6))
    A, D = -torch.rand(6, 3, generator=generator), torch.randn(6, generator=generator)
    inputs = [x.to(device).requires_grad_() for x in (u, delta.abs(), A, B, C, D)]
    try:
        with torch.enable_grad():
            sides = []
            for y, last in (run(function, *inputs), reference.selective_scan(*inputs)):
                sides.append([y.detach(), last.detach(), *torch.autograd.grad((y * up.to(device)).sum(), inputs)])
    except Exception as error:  # as above
        return f"selective_scan_fn fails a small call ({type(error).__name__}: {error})"
    for name, ours, true in zip(("y", "last", "du", "ddelta", "dA", "dB", "dC", "dD"), *sides, strict=True):
        error_size = float((ours - true).abs().max() / true.abs().max())
        if not error_size <= TOLERANCE:
            return f"selective_scan_fn differs from the reference in {name} by {error_size:.1e} of the largest entry"
    return ""


def _refused(found: str, action: str) -> ConfigError:
    return ConfigError(
        expected="a call that mamba-ssm's kernel can run", found=found, where="selective_scan:mamba_ssm", action=action
    )
