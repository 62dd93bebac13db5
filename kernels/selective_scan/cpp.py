"""The op as a C++ kernel for the CPU, built on request: `python -m instar.kernels.selective_scan.cpp build`.

One source file, `scan.cpp`, one compiler call of about two seconds, no torch headers: the library is loaded by ctypes
and works on data pointers. Float32 state; half types are converted, float64 is refused. Kept for
backward: the inputs and every 16th state. Runs on `torch.get_num_threads()` threads; the results do not depend on
their number.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from instar.errors import ConfigError
from instar.kernels.cpp_build import Library

LIBRARY = Library(
    source=Path(__file__).with_name("scan.cpp"),
    command="python -m instar.kernels.selective_scan.cpp build",
    instead="the sliced version",
)
WORK = 2**17
"""State updates worth a thread of their own: about 0.2 ms."""


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N]; same arguments, values and types as the reference.

    Float64 or a tensor outside the CPU is a `ConfigError`, a library that was not built a `MissingDependencyError`.
    """
    if u.dtype == torch.float64 or u.device.type != "cpu":
        raise ConfigError(
            expected="float32 or a half type on the CPU",
            found=f"{u.dtype} on {u.device}",
            where="selective_scan:cpp",
            action="name another backend",
        )
    dense = [None if t is None else t.float().contiguous() for t in (u, delta, A.t(), B, C, D)]
    dense.append(None if h0 is None else h0.float().transpose(1, 2).contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in dense):
        y, last = _Kernel.apply(*dense)  # type: ignore[no-untyped-call]
    else:
        y, last, _ = _forward(tuple(dense), keep=False)
    return y.to(u.dtype), last.transpose(1, 2).contiguous()


def _forward(inputs: tuple[Tensor | None, ...], keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y, the last state and, with `keep`, the states before every 16th step [B, K, N, E].

    u, delta [B, L, E], A [N, E], B, C [B, L, N], D [E], h0 and the last state [B, N, E]: all dense float32.
    """
    u, A, lib = inputs[0], inputs[2], LIBRARY.load()
    assert u is not None and A is not None
    (batch, length, channels), num = u.shape, A.shape[0]
    lib.instar_scan_chunk.restype = ctypes.c_int64
    marks = u.new_empty(batch, -(-length // lib.instar_scan_chunk()), num, channels) if keep else None
    y, last = torch.empty_like(u), u.new_empty(batch, num, channels)
    _call(lib.instar_scan_forward, (*inputs, y, last, marks), (batch, length, channels, num))
    return y, last, marks


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        y, last, marks = _forward(inputs, keep=True)
        ctx.save_for_backward(*inputs[:6], marks)
        ctx.starts = inputs[6] is not None
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        u, delta, A, B, C, D, marks = ctx.saved_tensors
        up = [None if g is None else g.contiguous() for g in grad_outputs]
        grads = [None if t is None else torch.empty_like(t) for t in (u, delta, A, B, C, D)]
        dh0 = u.new_empty(u.shape[0], *A.shape) if ctx.starts else None
        _call(
            LIBRARY.load().instar_scan_backward,
            (u, delta, A, B, C, D, marks, *up, *grads, dh0),
            (*u.shape, A.shape[0]),
        )
        return (*grads, dh0)


def _call(function: Any, tensors: tuple[Tensor | None, ...], sizes: tuple[int, ...]) -> None:
    work = sizes[0] * sizes[1] * sizes[2] * sizes[3]
    threads = min(torch.get_num_threads(), 1 + work // WORK)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]
    if function(*pointers, *map(ctypes.c_int64, (*sizes, threads))):
        raise MemoryError("selective_scan: no memory or no thread left for the C++ kernel")


if __name__ == "__main__":
    LIBRARY.main()
