"""Chooses how the op runs and says why: `choose` returns the choice, `selective_scan` runs it.

`auto` takes the first of `ORDER` that can run the call and says what kept those before it from running. A backend that is
named, by the caller or by the environment variable INSTAR_SCAN, runs or is an error. `auto` takes the C++ kernel only where
INSTAR_SCAN_CPP=1 asks for it, and then builds it at its first chance: backends differ in their last bits, so a library that
lies about must not decide what a resumed run computes. On CUDA the repeatable kernel comes first, for the same reason.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal, get_args

import torch
from torch import Tensor

from instar.errors import ConfigError, nearest
from instar.kernels.selective_scan import cpp, mamba_cuda, reference, sliced

Named = Literal["reference", "sliced", "cpp", "triton", "mamba_ssm"]
Backend = Literal["auto", "reference", "sliced", "cpp", "triton", "mamba_ssm"]
ORDER: dict[str, tuple[Named, ...]] = {"cuda": ("triton", "mamba_ssm", "sliced"), "cpu": ("cpp", "sliced")}
"""What `auto` tries for a kind of device; sliced elsewhere."""
ASK = "INSTAR_SCAN_CPP"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs and why."""

    backend: Named
    reason: str


def choose(
    device: torch.device, dtype: torch.dtype, *, carries_state: bool = False, backend: Backend = "auto"
) -> Choice:
    """Return the choice for inputs on `device` with `u` of type `dtype`; `carries_state` says that h0 is given.

    A named backend that cannot run such a call, or a name that does not exist, is a `ConfigError`.
    """
    named, who = (
        (backend, "the caller") if backend != "auto" else (os.environ.get("INSTAR_SCAN", "auto"), "INSTAR_SCAN")
    )
    if named not in get_args(Backend):
        raise ConfigError(
            expected="a backend of the selective scan",
            found=f"'{named}'",
            where=who,
            action=nearest(named, get_args(Backend)),
        )
    if named != "auto":
        obstacle = _obstacle(named, device, dtype, carries_state)
        if obstacle:
            raise ConfigError(
                expected=f"a call that the backend {named} can run",
                found=obstacle,
                where=f"selective_scan: named by {who}",
                action="remove the obstacle, or let `auto` choose",
            )
        return Choice(backend=named, reason=f"named by {who}")  # type: ignore[arg-type]
    passed: list[str] = []
    for name in ORDER.get(device.type, ("sliced",)):
        asked = name != "cpp" or os.environ.get(ASK) == "1"
        obstacle = _obstacle(name, device, dtype, carries_state) if asked else f"{ASK}=1 is not set"
        if not obstacle:
            return Choice(backend=name, reason="; ".join([f"first that can run on {device.type}", *passed]))
        passed.append(f"not {name}: {obstacle}")
    raise AssertionError("sliced runs everywhere")


def _obstacle(name: str, device: torch.device, dtype: torch.dtype, carries_state: bool) -> str:
    """Return why a backend cannot run such a call, or nothing."""
    if name == "cpp":
        return _cpp_obstacle(device, dtype)
    if name == "triton":
        return _triton_obstacle(device, dtype)
    if name == "mamba_ssm":
        if torch.are_deterministic_algorithms_enabled():
            return "torch's deterministic mode is on and its gradients are not repeatable"
        return mamba_cuda.obstacle(device, dtype, carries_state)
    return ""


def _cpp_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cpu":
        return f"it needs the CPU, the tensors are on {device.type}"
    if dtype == torch.float64:
        return "it has no float64"
    if not cpp.LIBRARY.is_built() and os.environ.get(ASK) == "1":
        cpp.LIBRARY.build()
    return "" if cpp.LIBRARY.is_built() else f"it is not built for this processor (`{cpp.LIBRARY.command}`)"


def _triton_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs CUDA, the tensors are on {device.type}"
    return "it has no float64" if dtype == torch.float64 else _triton_missing()


@cache
def _triton_missing() -> str:
    try:
        import_module("instar.kernels.selective_scan.triton_scan")
    except Exception as error:  # no package, or one that does not fit the driver: it raises many kinds
        return f"it does not import ({type(error).__name__}: {error})"
    return ""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N], with the chosen backend.

    u, delta [B, L, E] (delta >= 0), A [E, N], B, C [B, L, N], D [E] or None, h0 [B, E, N] or None for zeros. y has the
    type of u, the state float32, or float64 for float64. A wrong shape is a `ContractError`.
    """
    reference.check_shapes(u, delta, A, B, C, D, h0)
    choice = choose(u.device, u.dtype, carries_state=h0 is not None, backend=backend)
    if choice.backend == "triton":
        from instar.kernels.selective_scan import triton_scan

        return triton_scan.selective_scan(u, delta, A, B, C, D, h0)
    run = {
        "reference": reference.selective_scan,
        "sliced": sliced.selective_scan,
        "cpp": cpp.selective_scan,
        "mamba_ssm": mamba_cuda.selective_scan,
    }
    return run[choice.backend](u, delta, A, B, C, D, h0)
