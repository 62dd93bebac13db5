"""The kernels, compiled for two generations of devices without one: launches are recorded and built down to machine code.

What Triton's interpreter accepts, the compiler may refuse. `atom` and `red` are PTX's atomic operations.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from gpu import logprob_world, scan_world
from instar.kernels.logprob import triton_logprob, triton_logprob_kernels
from instar.kernels.selective_scan import triton_scan, triton_scan_kernels

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
LAUNCH_OPTIONS = ("num_warps", "num_stages")


class Recorder:
    """Stands for a kernel: keeps the arguments of its launches and runs nothing."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(n >= 1 for n in grid)
        return lambda *args, **kwargs: self.launches.append((args, kwargs))


class Kernels:
    """Stands for a module of kernels."""

    def __init__(self, *names: str) -> None:
        for name in names:
            setattr(self, name, Recorder())


def build(kernel: Any, launch: tuple[tuple[Any, ...], dict[str, Any]], capability: int) -> Any:
    """Compile a kernel for a recorded launch, specialised on None, 1 and multiples of 16 as a launch would be."""
    args, kwargs = launch
    values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    options = {k: values.pop(k) for k in LAUNCH_OPTIONS if k in values}
    constants: dict[tuple[int], Any] = {}
    signature, aligned = {}, {}
    for i, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value = values[name]
        if value is None or parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
            continue
        signature[name] = mangle_type(value)
        if isinstance(value, Tensor) or value % 16 == 0:
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = built.asm["ptx"]
    assert built.asm["cubin"] and built.metadata.shared <= SHARED_MEMORY[capability]
    assert not re.search(r"^\s*(@\S+\s+)?(atom|red)\.", ptx, re.M), "an atomic operation"
    return ptx


def scan(capability: int, dtype: torch.dtype, *absent: str) -> None:
    recorded: Any = Kernels("forward", "backward")
    before, triton_scan._KERNELS = triton_scan._KERNELS, recorded
    triton_scan_kernels.INTERPRETED = True
    try:
        args = {k: x for k, x in scan_world.inputs(2, 16, 256, 16, dtype=dtype).items() if k not in absent}
        lengths = None if absent else torch.tensor([3, 9])
        y, last = triton_scan.selective_scan(**args, lengths=lengths)
        torch.autograd.grad(y.sum() + (0 if absent else last.sum()), list(args.values()))
    finally:
        triton_scan._KERNELS, triton_scan_kernels.INTERPRETED = before, False
    for name in ("forward", "backward"):
        (launch,) = getattr(recorded, name).launches
        ptx = build(getattr(triton_scan_kernels, name), launch, capability)
        assert "ex2.approx" in ptx


def logprob(capability: int, dtype: torch.dtype, product: str) -> None:
    recorded: Any = Kernels("forward", "dlogits")
    before, triton_logprob._KERNELS = triton_logprob._KERNELS, recorded
    triton_logprob_kernels.INTERPRETED = True
    try:
        case = logprob_world.inputs(48, 64, 256, "cpu", dtype=dtype)
        values = triton_logprob.selected_logprob(*case, 128)
        logprob_world.gradients(case, values)
    finally:
        triton_logprob._KERNELS, triton_logprob_kernels.INTERPRETED = before, False
    assert len(recorded.dlogits.launches) == 2
    for name in ("forward", "dlogits"):
        ptx = build(getattr(triton_logprob_kernels, name), getattr(recorded, name).launches[0], capability)
        assert product in ptx, f"expected {product}"


SCAN_CASES: dict[str, Callable[[str], None]] = {
    "scan, float32, 8.0": lambda _: scan(80, torch.float32),
    "scan, bfloat16, 9.0": lambda _: scan(90, torch.bfloat16, "D", "h0"),
}
LOGPROB_CASES: dict[str, Callable[[str], None]] = {
    "logprob, float32, 8.0": lambda _: logprob(80, torch.float32, "fma.rn.f32"),
    "logprob, bfloat16, 8.0": lambda _: logprob(80, torch.bfloat16, "mma.sync"),
    "logprob, bfloat16, 9.0": lambda _: logprob(90, torch.bfloat16, "wgmma.mma_async"),
}
CASES = {**SCAN_CASES, **LOGPROB_CASES}
