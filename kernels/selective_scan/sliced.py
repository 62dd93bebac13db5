"""The op with its own backward in plain torch, a slice of steps and sequences at a time, so that the slice stays in cache.

A state is laid out [step, sequence, N, E]: the long axis is contiguous and `h_{t-1}` of a slice is the same memory one
step earlier. Inside a slice only the recurrence runs step by step, one fused multiply-add each; decays, inputs, outputs
and gradients are operations on the whole slice.

Kept for backward: the inputs and the state before each slice. Backward runs a slice forward again, decays and states,
then walks it from the end. Without gradients nothing is kept. Float32, float64 and the half types; the state as in the
reference. Shapes: B sequences, L steps, E channels, N state entries per channel, S steps of a slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from instar.kernels.selective_scan.reference import state_type

SLICE = 2**18
"""State numbers of one slice, 1 MiB in float32; backward uses four such buffers. The best of 2^16 to 2^20 here."""
STEPS = 8
"""Steps of one slice, more when the sequences are too few to fill it: one state in eight is kept for backward."""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
Gradients = tuple[Tensor | None, ...]


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N]; same arguments, values and types as the reference."""
    inputs: Inputs = (u, delta, A, B, C, D, h0)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        result: tuple[Tensor, Tensor] = _Sliced.apply(*inputs)  # type: ignore[no-untyped-call]
        return result
    return _forward(inputs, None)


@dataclass(frozen=True)
class _Plan:
    """How a call is cut: sequences of a block, steps of a slice; a function of the shapes alone."""

    blocks: list[slice]
    slices: list[slice]
    size: int
    steps: int
    rate: Tensor
    """A transposed, [N, E], times log2(e): 2 to the power of it is cheaper than the exponential."""


def _plan(u: Tensor, A: Tensor) -> _Plan:
    batch, length, budget = u.shape[0], u.shape[1], max(1, SLICE // max(1, A.numel()))
    size = max(1, min(batch, budget // min(STEPS, budget)))
    steps = max(1, min(length, budget // size))
    rate = A.to(state_type(u)).t().contiguous() * math.log2(math.e)
    return _Plan(_cut(batch, size), _cut(length, steps), size, steps, rate)


def _cut(total: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, total)) for i in range(0, total, size)]


def _time_major(x: Tensor, rows: slice, kind: torch.dtype) -> Tensor:
    """Return x[rows] as contiguous [L, rows, ...] of state type."""
    return x[rows].transpose(0, 1).to(kind).contiguous()


def _state_major(h: Tensor, rows: slice, kind: torch.dtype) -> Tensor:
    """Return h[rows], [rows, E, N], as an own [rows, N, E] of state type."""
    return h[rows].to(kind).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def _forward(inputs: Inputs, keep: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """Run the op. The states before each slice, [slices, rows, N, E], are appended to `keep`, one tensor per block."""
    u, delta, A, B, C, D, h0 = inputs
    plan, kind, channels, num = _plan(u, A), state_type(u), *A.shape
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty(u.shape[0], channels, num, dtype=kind)
    buffers = [u.new_empty((plan.steps + more) * plan.size, num, channels, dtype=kind) for more in (0, 1)]
    with torch.autocast(u.device.type, enabled=False):
        for rows in plan.blocks:
            wide, d, b, c = (_time_major(x, rows, kind) for x in (u, delta, B, C))
            x, out = d * wide, torch.empty_like(wide)
            carry = wide.new_zeros(wide.shape[1], num, channels) if h0 is None else _state_major(h0, rows, kind)
            if keep is not None:
                keep.append(carry.new_empty(len(plan.slices), *carry.shape))
            for number, part in enumerate(plan.slices):
                if keep is not None:
                    keep[-1][number].copy_(carry)
                _, states = _states(plan, buffers, carry, x[part], d[part], b[part])
                carry.copy_(states[-1])
                _rows_times(c[part], states[1:], out[part])
            if D is not None:
                out.addcmul_(wide, D.to(kind))
            y[rows], last[rows] = out.transpose(0, 1), carry.transpose(1, 2)
    return y, last


def _states(plan: _Plan, room: list[Tensor], first: Tensor, x: Tensor, d: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decays [S, rows, N, E] of a slice and its states [S + 1, rows, N, E] from `first` on."""
    steps, count, _ = x.shape
    decay, states = _slots(room[0], steps, count), _slots(room[1], steps + 1, count)
    torch.mul(d[:, :, None], plan.rate, out=decay).exp2_()
    torch.mul(b[..., None], x[:, :, None], out=states[1:])
    each = states.unbind(0)
    each[0].copy_(first)
    for i, a in enumerate(decay.unbind(0)):
        each[i + 1].addcmul_(a, each[i])
    return decay, states


def _slots(buffer: Tensor, steps: int, rows: int) -> Tensor:
    """Return the front of a buffer as contiguous [steps, rows, N, E]; the last block and slice are smaller."""
    return buffer[: steps * rows].view(steps, rows, *buffer.shape[1:])


def _rows_times(row: Tensor, matrix: Tensor, out: Tensor) -> None:
    """Write row @ matrix for every step and sequence. row [S, b, K], matrix [S, b, K, M], out [S, b, M].

    The row stands on the left on purpose: a matrix times a column takes eight times as long in batched MKL.
    """
    flat = row.shape[0] * row.shape[1]
    torch.bmm(row.reshape(flat, 1, -1), matrix.flatten(0, 1), out=out.view(flat, 1, -1))


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        marks: list[Tensor] = []
        y, last = _forward(inputs, marks)
        ctx.save_for_backward(*inputs, *marks)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> Gradients:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved, (dy, dlast) = ctx.saved_tensors, grad_outputs
        with torch.autocast(saved[0].device.type, enabled=False):
            return _backward(saved[:7], saved[7:], dy, dlast)


def _backward(inputs: Inputs, kept: tuple[Tensor, ...], dy: Tensor | None, dlast: Tensor | None) -> Gradients:
    """Return the gradients of the inputs in their types; sums over sequences and steps gather in state type."""
    u, delta, A, B, C, D, h0 = inputs
    plan, kind = _plan(u, A), state_type(u)
    dy = torch.zeros_like(u) if dy is None else dy
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (u, delta, B, C)]
    dA, dD = torch.zeros_like(plan.rate), u.new_zeros(u.shape[2], dtype=kind)
    dh0 = None if h0 is None else torch.empty_like(h0, memory_format=torch.contiguous_format)
    buffers = [u.new_empty((plan.steps + more) * plan.size, *dA.shape, dtype=kind) for more in (0, 1, 0, 0)]
    for rows, marks in zip(plan.blocks, kept, strict=True):
        wide, d, b, c, gy = (_time_major(x, rows, kind) for x in (u, delta, B, C, dy))
        carry = u.new_zeros(wide.shape[1], *dA.shape, dtype=kind) if dlast is None else _state_major(dlast, rows, kind)
        gx, gd, gb, gc = _block_backward(plan, buffers, marks, (d * wide, d, b, c, gy), carry, dA)
        gd.addcmul_(gx, wide)
        gx.mul_(d)
        if D is not None:
            gx.addcmul_(gy, D.to(kind))
            dD += (gy * wide).sum(dim=(0, 1))
        for whole, block in zip(grads, (gx, gd, gb, gc), strict=True):
            whole[rows] = block.transpose(0, 1)
        if dh0 is not None:
            dh0[rows] = carry.transpose(1, 2)
    return *grads[:2], dA.t().to(A.dtype), *grads[2:], None if D is None else dD.to(D.dtype), dh0


def _block_backward(
    plan: _Plan, buffers: list[Tensor], marks: Tensor, inputs: tuple[Tensor, ...], carry: Tensor, dA: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x = delta u, of delta (through the decay), B and C, all [L, rows, ...]; adds to dA [N, E].

    `carry` [rows, N, E] holds the gradient of the last state and, afterwards, that of the initial one.
    """
    x, d, b, c, gy = inputs
    gx, gd, gb, gc = (torch.empty_like(t) for t in (x, d, b, c))
    count, A = x.shape[1], plan.rate * math.log(2)
    ones = x.new_ones(plan.steps * count)
    for first, part in zip(reversed(marks.unbind(0)), reversed(plan.slices), strict=True):
        n = part.stop - part.start
        decay, states = _states(plan, buffers, first, x[part], d[part], b[part])
        g, work = (_slots(buffer, n, count) for buffer in buffers[2:])
        torch.mul(c[part, ..., None], gy[part, :, None], out=g)
        decays, each = decay.unbind(0), g.unbind(0)
        each[-1].add_(carry)
        for i in range(n - 2, -1, -1):
            each[i].addcmul_(decays[i + 1], each[i + 1])
        _rows_times(gy[part], states[1:].transpose(2, 3), gc[part])
        _rows_times(x[part], g.transpose(2, 3), gb[part])
        _rows_times(b[part], g, gx[part])
        g.mul_(decay)
        carry.copy_(each[0])
        g.mul_(states[:-1])
        torch.mul(g, d[part, :, None], out=work)
        dA.view(-1).addmv_(work.view(n * count, -1).t(), ones[: n * count])
        torch.sum(torch.mul(g, A, out=work), dim=2, out=gd[part])
    return gx, gd, gb, gc
