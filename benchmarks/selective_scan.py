"""Selective scan, forward and backward, one thread: ours against the ways that transformers and mambapy do it.

All sides get the same numbers in the layout each of them wants, prepared outside the clock, and one upstream gradient;
outputs and gradients are compared before any ratio is reported. The transformers side is the function its Mamba layers
call without a kernel. `gpu_kernels.py` compares the versions for a GPU.
Shapes: B sequences, L steps, E channels, N state entries per channel. Needs mambapy==1.2.0 on the CPU.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import torch
from timing import Cost, compare, interleave, medians
from torch import Tensor

from instar.kernels.selective_scan import cpp, dispatch, reference

BARS = {"sliced": {"transformers": 15.0, "mambapy": 3.0}, "cpp": {"transformers": 40.0, "mambapy": 8.0}}
CASES = (((64, 60, 256, 16), 3, BARS), ((32, 30, 128, 16), 9, {}))
"""[B, L, E, N], repeats, bars of the ratios of CPU time"""
Call = Callable[[], list[Tensor]]


def run() -> list[dict[str, Any]]:
    """Return a row per shape and version. A machine without a C++ compiler raises `MissingDependencyError`."""
    threads, rows = torch.get_num_threads(), []
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"INSTAR_CACHE": folder}):
        cpp.LIBRARY.build()
        torch.set_num_threads(1)
        try:
            for shape, repeats, bars in CASES:
                rows += _rows(shape, repeats, bars)
        finally:
            torch.set_num_threads(threads)
    return rows


def _rows(shape: tuple[int, int, int, int], repeats: int, bars: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    calls = sides(*inputs(*shape, torch.float32, "cpu"))
    true = calls["step loop"]()
    errors = {name: difference(call(), true) for name, call in calls.items()}
    costs = interleave({name: _timed(call) for name, call in calls.items()}, repeats)
    rows = []
    for name in BARS:
        row: dict[str, Any] = {"row": f"{name}, " + ", ".join(f"{k} {v}" for k, v in zip("BLEN", shape, strict=True))}
        ratios = {peer: compare(costs[peer], costs[name]) for peer in ("transformers", "mambapy", "step loop")}
        for peer, ratio in ratios.items():
            row |= {f"{key}_{peer.replace(' ', '_')}": round(value, 2) for key, value in ratio.items()}
        row["cpu_ms"] = {side: round(1e3 * medians(cost)["cpu_s"], 2) for side, cost in costs.items()}
        row["largest_relative_difference"] = errors[name]
        if name in bars:
            row["bar"] = "CPU time " + ", ".join(f">= {bar}x {peer}" for peer, bar in bars[name].items())
            row["met"] = all(ratios[peer]["ratio_cpu"] >= bar for peer, bar in bars[name].items())
        rows.append(row)
    return rows


def inputs(b: int, length: int, e: int, n: int, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
    """Return u, delta, A, B, C, D as leaves and the upstream gradient of y; A and D stay float32."""
    g = torch.Generator().manual_seed(0)
    u, delta, up = (torch.randn(b, length, e, generator=g) for _ in range(3))
    B, C = (torch.randn(b, length, n, generator=g) for _ in range(2))
    A = -torch.arange(1, n + 1, dtype=torch.float32).repeat(e, 1)
    D = torch.ones(e)
    delta = torch.nn.functional.softplus(delta - 3)
    types = (dtype, dtype, torch.float32, dtype, dtype, torch.float32)
    leaves = [x.to(device=device, dtype=kind) for x, kind in zip((u, delta, A, B, C, D), types, strict=True)]
    return [x.requires_grad_() for x in leaves], up.to(device=device, dtype=dtype)


def sides(leaves: list[Tensor], up: Tensor) -> dict[str, Call]:
    """Return the sides by name; each gives y and the gradients of its inputs in our layout."""
    from mambapy.mamba import MambaBlock
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    tall = [x.detach().transpose(1, 2).contiguous() for x in leaves if x.ndim == 3]
    u, delta, B, C = (x.requires_grad_() for x in tall)
    theirs = [u, delta, leaves[2], B, C, leaves[5]]
    up_tall = up.transpose(1, 2).contiguous()

    def transformers() -> list[Tensor]:
        y = mamba_selective_scan(*theirs)
        found = [y.detach(), *torch.autograd.grad(y, theirs, up_tall)]
        return [x.transpose(1, 2) if x.ndim == 3 else x for x in found]

    def ours(run_it: Callable[..., tuple[Tensor, Tensor]], **options: Any) -> Call:
        def call() -> list[Tensor]:
            y, _ = run_it(*leaves, **options)
            return [y.detach(), *torch.autograd.grad(y, leaves, up)]

        return call

    def mambapy() -> list[Tensor]:
        y = MambaBlock.selective_scan(cast(Any, None), *leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, up)]

    return {
        "transformers": transformers,
        "mambapy": mambapy,
        "step loop": ours(reference.selective_scan),
        "sliced": ours(dispatch.selective_scan, backend="sliced"),
        "cpp": ours(dispatch.selective_scan, backend="cpp"),
    }


def difference(found: list[Tensor], true: list[Tensor]) -> float:
    """Return the largest difference relative to the largest entry of its tensor; more than 1e-5 is an error."""
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, true, strict=True))
    assert worst < 1e-5, f"the sides differ by {worst}"
    return worst


def _timed(call: Call) -> Callable[[], Cost]:
    def timed() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    return timed
