"""The op on CUDA: one program walks the time steps of one block of channels, the state in registers, one launch a way.

Forward stores the state every `CHUNK` steps and nothing else. Backward walks the chunks from the last to the first,
computes a chunk's states again into registers and carries the gradient of the state. Sums over channels (dB, dC) and
over sequences (dA, dD) are written as partial sums and added by torch: no float atomics, so equal inputs give equal
bits. Block sizes follow from E and N alone; nothing is tuned by timing, which would change the order of sums. Time is not
split: one warp walks 32 channels of a sequence (N 16), so few and long sequences leave much of a device idle.

Types: u and y in float32, bfloat16 or float16, the other inputs in any floating type; all arithmetic, the states, the
sums and `h_last` in float32. CUDA tensors, or CPU tensors when the process started with TRITON_INTERPRET=1. Needs the
extra `gpu`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from instar.errors import ConfigError, ContractError
from instar.kernels.selective_scan import triton_scan_kernels as kernels
from instar.kernels.selective_scan.reference import check_shapes

CHUNK = 8
"""Steps between stored states: 4 N / CHUNK bytes per step and channel, and CHUNK states in registers in backward."""
STATE_TILE = 512
"""State numbers of one program, 16 registers a thread: its channels are this over N rounded up to a power of two."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
_KERNELS: Any = kernels
_on: Any = torch.cuda.device_of


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    h0: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N]; arguments and values of the reference.

    `lengths` [B], integers: steps at or beyond a sequence's length are never read. Their y and gradients are 0, and
    `h_last` is the state after the last step within the length. Wrong shapes and types are a `ContractError`.
    """
    check_shapes(u, delta, A, B, C, D, h0)
    _check(u, lengths)
    inputs = (u, delta, A, B, C, D, h0)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        result: tuple[Tensor, Tensor] = _Scan.apply(*inputs, lengths)  # type: ignore[no-untyped-call]
        return result
    return _forward(inputs, lengths, None)


def _check(u: Tensor, lengths: Tensor | None) -> None:
    """Raise unless the kernels can run these tensors where they are."""
    if not u.is_cuda and not kernels.INTERPRETED:
        raise ConfigError(
            expected="CUDA tensors",
            found=f"tensors on {u.device}",
            where="selective_scan:triton",
            action="use the backend `auto`, or start the process with TRITON_INTERPRET=1 to try the kernels",
        )
    if u.dtype not in TYPES:
        raise ContractError(
            expected="float32, bfloat16 or float16",
            found=str(u.dtype),
            where="selective_scan:u",
            action="convert the tensors, or use the backend `sliced`",
        )
    if lengths is not None and (
        lengths.shape != u.shape[:1] or lengths.is_floating_point() or lengths.device != u.device
    ):
        raise ContractError(
            expected=f"integers of shape [{u.shape[0]}] on {u.device}",
            found=f"{lengths.dtype} of shape {list(lengths.shape)} on {lengths.device}",
            where="selective_scan:lengths",
            action="give one length per sequence",
        )


def blocks(channels: int, states: int) -> tuple[int, int]:
    """Return the channels and state entries of one program's tile, powers of two."""
    tile_e, tile_n = (1 << (max(size, 1) - 1).bit_length() for size in (channels, states))
    return min(tile_e, max(1, STATE_TILE // tile_n), 128), tile_n


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _rows(x: Tensor) -> Tensor:
    """Return `x` [B, L, .] with neighbouring last entries; slices of a projection need no copy."""
    return x if x.stride(2) == 1 else x.contiguous()


def _forward(inputs: Inputs, lengths: Tensor | None, borders: Tensor | None) -> tuple[Tensor, Tensor]:
    u, delta, A, B, C, D, h0 = inputs
    (batch, length, channels), states = u.shape, A.shape[1]
    y = _empty(lengths, batch, length, channels, like=u, dtype=u.dtype)
    last = u.new_empty(batch, channels, states, dtype=torch.float32)
    if last.numel() == 0:
        return y, last
    u, delta, B, C = (_rows(x) for x in (u, delta, B, C))
    tile_e, tile_n = blocks(channels, states)
    with _on(u):
        _KERNELS.forward[(batch * _ceil(channels, tile_e),)](
            u,
            delta,
            A.contiguous(),
            B,
            C,
            D,
            None if h0 is None else h0.contiguous(),
            lengths,
            y,
            last,
            borders,
            length,
            channels,
            states,
            *u.stride()[:2],
            *delta.stride()[:2],
            *B.stride()[:2],
            *C.stride()[:2],
            CHUNK=CHUNK,
            TILE_E=tile_e,
            TILE_N=tile_n,
            num_warps=1,
        )
    return y, last


def _empty(lengths: Tensor | None, *shape: int, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a result of the given shape: steps that the kernels do not visit must read 0, all others are written."""
    return like.new_empty(*shape, dtype=dtype) if lengths is None else like.new_zeros(*shape, dtype=dtype)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        inputs, lengths = arguments[:7], arguments[7]
        (batch, length, channels), states = inputs[0].shape, inputs[2].shape[1]
        borders = inputs[0].new_empty(batch, _ceil(length, CHUNK), channels, states, dtype=torch.float32)
        y, last = _forward(inputs, lengths, borders)
        ctx.save_for_backward(*arguments, borders)
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *inputs, lengths, borders = ctx.saved_tensors
        return (*_backward(tuple(inputs), lengths, borders, *grad_outputs), None)


def _backward(
    inputs: Inputs, lengths: Tensor | None, borders: Tensor, dy: Tensor | None, dlast: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the seven inputs, each in its input's type."""
    u, delta, A, B, C, D, h0 = inputs
    (batch, length, channels), states = u.shape, A.shape[1]
    tile_e, tile_n = blocks(channels, states)
    parts = _ceil(channels, tile_e)
    du, ddelta = (_empty(lengths, batch, length, channels, like=u, dtype=x.dtype) for x in (u, delta))
    dB, dC = (_empty(lengths, parts, batch, length, states, like=u) for _ in range(2))
    dA, dh0 = (u.new_empty(batch, channels, states, dtype=torch.float32) for _ in range(2))
    dD = u.new_empty(batch, channels, dtype=torch.float32)
    if dA.numel():
        dy = torch.zeros_like(u, memory_format=torch.contiguous_format) if dy is None else dy
        rows = [_rows(x) for x in (u, delta, B, C, dy)]
        with _on(u):
            _KERNELS.backward[(batch * parts,)](
                *rows[:2],
                A.contiguous(),
                *rows[2:],
                D,
                lengths,
                borders,
                None if dlast is None else dlast.contiguous(),
                du,
                ddelta,
                dA,
                dB,
                dC,
                dD,
                dh0,
                batch,
                length,
                channels,
                states,
                *(s for x in rows for s in x.stride()[:2]),
                CHUNK=CHUNK,
                TILE_E=tile_e,
                TILE_N=tile_n,
                num_warps=1,
            )
    return (
        du,
        ddelta,
        dA.sum(0).to(A.dtype),
        dB.sum(0).to(B.dtype),
        dC.sum(0).to(C.dtype),
        None if D is None else dD.sum(0).to(D.dtype),
        None if h0 is None else dh0.to(h0.dtype),
    )
