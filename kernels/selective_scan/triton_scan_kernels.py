"""Triton kernels of the selective scan; `triton_scan` launches them and says what they compute.

A program owns `TILE_E` channels of one sequence and runs on one warp, so that a sum over channels or state entries
stays inside it. Masked entries read 0: A and delta of 0 make a decay of 1 and an input of 0, an inert step.
Absent tensors are None, which the compiler removes. Offsets inside a tensor are 64 bits wide.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,assignment"
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED: bool = knobs.runtime.interpret
"""Whether this process runs the kernels on the CPU: TRITON_INTERPRET=1 was set when they were imported."""

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _place(channels, TILE_E: tl.constexpr):
    """Return the program's sequence and its channels."""
    blocks = tl.cdiv(channels, TILE_E)
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), (program % blocks) * TILE_E + tl.arange(0, TILE_E)


@triton.jit
def _end(lengths, sequence, length):
    """Return the number of steps to walk."""
    end = length
    if lengths is not None:
        end = tl.minimum(tl.load(lengths + sequence).to(tl.int32), length)
    return end


@triton.jit
def _row(base, offset, mask):
    """Return one step's entries as float32, 0 where masked."""
    return tl.load(base + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def forward(
    u,
    delta,
    A,
    B,
    C,
    D,
    h0,
    lengths,
    y,
    last,
    borders,
    length,
    channels,
    states,
    u_b,
    u_t,
    delta_b,
    delta_t,
    B_b,
    B_t,
    C_b,
    C_t,
    CHUNK: tl.constexpr,
    TILE_E: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """Write y and the last state, and the state before every CHUNK-th step into `borders` unless it is None.

    Strides x_b and x_t are those of sequence and step; the last axis of every tensor is contiguous.
    """
    sequence, e = _place(channels, TILE_E)
    n = tl.arange(0, TILE_N)
    in_e, in_n = e < channels, n < states
    tile, in_tile = e[:, None] * states + n[None, :], in_e[:, None] & in_n[None, :]
    rate = _row(A, tile, in_tile) * LOG2E
    skip = tl.zeros([TILE_E], tl.float32)
    if D is not None:
        skip = _row(D, e, in_e)
    h = tl.zeros([TILE_E, TILE_N], tl.float32)
    if h0 is not None:
        h = _row(h0 + sequence * channels * states, tile, in_tile)
    u, delta = u + sequence * u_b, delta + sequence * delta_b
    B, C = B + sequence * B_b, C + sequence * C_b
    y += sequence * length * channels
    if borders is not None:
        borders += sequence * tl.cdiv(length, CHUNK) * channels * states
    end = _end(lengths, sequence, length)
    for start in range(0, end, CHUNK):
        if borders is not None:
            tl.store(borders + tl.cast(start // CHUNK, tl.int64) * channels * states + tile, h, mask=in_tile)
        # All loads of a chunk before its stores: the compiler cannot move a load over a store by itself.
        us, deltas, Bs, Cs = (), (), (), ()
        for i in tl.static_range(CHUNK):
            t, live = tl.cast(start + i, tl.int64), start + i < end
            us += (_row(u + t * u_t, e, in_e & live),)
            deltas += (_row(delta + t * delta_t, e, in_e & live),)
            Bs += (_row(B + t * B_t, n, in_n & live),)
            Cs += (_row(C + t * C_t, n, in_n & live),)
        for i in tl.static_range(CHUNK):
            h = tl.exp2(deltas[i][:, None] * rate) * h + (deltas[i] * us[i])[:, None] * Bs[i][None, :]
            out = tl.sum(h * Cs[i][None, :], axis=1) + skip * us[i]
            at = y + tl.cast(start + i, tl.int64) * channels + e
            tl.store(at, out.to(y.dtype.element_ty), mask=in_e & (start + i < end))
    tl.store(last + sequence * channels * states + tile, h, mask=in_tile)


@triton.jit
def backward(
    u,
    delta,
    A,
    B,
    C,
    dy,
    D,
    lengths,
    borders,
    dlast,
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
    u_b,
    u_t,
    delta_b,
    delta_t,
    B_b,
    B_t,
    C_b,
    C_t,
    dy_b,
    dy_t,
    CHUNK: tl.constexpr,
    TILE_E: tl.constexpr,
    TILE_N: tl.constexpr,
):
    """Write the gradients: dA, dD and dh0 per sequence, dB and dC per sequence and block of channels.

    `g` is the gradient of the state h_t from everything after it; entering a step it still lacks that step's own y_t.
    """
    sequence, e = _place(channels, TILE_E)
    n = tl.arange(0, TILE_N)
    in_e, in_n = e < channels, n < states
    tile, in_tile = e[:, None] * states + n[None, :], in_e[:, None] & in_n[None, :]
    here = sequence * channels * states + tile
    rate = _row(A, tile, in_tile) * LOG2E
    skip = tl.zeros([TILE_E], tl.float32)
    if D is not None:
        skip = _row(D, e, in_e)
    g, sum_A = tl.zeros([TILE_E, TILE_N], tl.float32), tl.zeros([TILE_E, TILE_N], tl.float32)
    sum_D = tl.zeros([TILE_E], tl.float32)
    if dlast is not None:
        g = _row(dlast, here, in_tile)
    u, delta, dy = u + sequence * u_b, delta + sequence * delta_b, dy + sequence * dy_b
    B, C = B + sequence * B_b, C + sequence * C_b
    du, ddelta = du + sequence * length * channels, ddelta + sequence * length * channels
    part = (tl.program_id(0) % tl.cdiv(channels, TILE_E)).to(tl.int64) * batch + sequence
    dB, dC = dB + part * length * states, dC + part * length * states
    borders += sequence * tl.cdiv(length, CHUNK) * channels * states
    end = _end(lengths, sequence, length)
    chunks = tl.cdiv(end, CHUNK)
    for walked in range(chunks):
        chunk = chunks - 1 - walked
        h = _row(borders + tl.cast(chunk, tl.int64) * channels * states, tile, in_tile)
        hs = (h,)
        for i in tl.static_range(CHUNK):
            t, live = tl.cast(chunk * CHUNK + i, tl.int64), chunk * CHUNK + i < end
            delta_i = _row(delta + t * delta_t, e, in_e & live)
            x = delta_i * _row(u + t * u_t, e, in_e & live)
            h = tl.exp2(delta_i[:, None] * rate) * h + x[:, None] * _row(B + t * B_t, n, in_n & live)[None, :]
            hs += (h,)
        for j in tl.static_range(CHUNK):
            step = chunk * CHUNK + CHUNK - 1 - j
            t, live = tl.cast(step, tl.int64), step < end
            u_i, delta_i = _row(u + t * u_t, e, in_e & live), _row(delta + t * delta_t, e, in_e & live)
            B_i, C_i = _row(B + t * B_t, n, in_n & live), _row(C + t * C_t, n, in_n & live)
            dy_i = _row(dy + t * dy_t, e, in_e & live)
            g += dy_i[:, None] * C_i[None, :]
            tl.store(dC + t * states + n, tl.sum(dy_i[:, None] * hs[CHUNK - j], axis=0), mask=in_n & live)
            tl.store(dB + t * states + n, tl.sum((delta_i * u_i)[:, None] * g, axis=0), mask=in_n & live)
            dx = tl.sum(g * B_i[None, :], axis=1)
            g *= tl.exp2(delta_i[:, None] * rate)
            drate = g * hs[CHUNK - 1 - j]
            ddelta_i = dx * u_i + tl.sum(drate * rate, axis=1) * LN2
            tl.store(du + t * channels + e, (dx * delta_i + skip * dy_i).to(du.dtype.element_ty), mask=in_e & live)
            tl.store(ddelta + t * channels + e, ddelta_i.to(ddelta.dtype.element_ty), mask=in_e & live)
            sum_A += drate * delta_i[:, None]
            sum_D += dy_i * u_i
    tl.store(dA + here, sum_A, mask=in_tile)
    tl.store(dD + sequence * channels + e, sum_D, mask=in_e)
    tl.store(dh0 + here, g, mask=in_tile)
