"""Triton kernels of the selected log-probability; `triton_logprob` launches them and says what they compute.

Both form a tile of logits [TILE_M tokens, TILE_V words] in registers from tiles of hidden states and head, and round it
to the input type as a model's own head does. Offsets that can pass 2^31 are 64 bits wide.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,assignment"
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED: bool = knobs.runtime.interpret
"""Whether this process runs the kernels on the CPU: TRITON_INTERPRET=1 was set when they were imported."""
LEAST: tl.constexpr = tl.constexpr(-126.0)
"""exp of this and of anything below is 0 in float32; it stands for -inf where that would be multiplied by 0."""


@triton.jit
def _logits(
    hidden,
    weight,
    bias,
    m,
    v,
    tokens,
    vocabulary,
    width,
    hidden_m,
    weight_v,
    TILE_M: tl.constexpr,
    TILE_V: tl.constexpr,
    TILE_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the logits of tokens `m` and words `v` as float32, -inf outside the vocabulary."""
    total = tl.zeros([TILE_M, TILE_V], tl.float32)
    row = hidden + m.to(tl.int64)[:, None] * hidden_m
    col = weight + v.to(tl.int64)[None, :] * weight_v
    for start in range(0, width, TILE_H):
        h = start + tl.arange(0, TILE_H)
        a = tl.load(row + h[None, :], mask=(m < tokens)[:, None] & (h < width)[None, :], other=0.0)
        b = tl.load(col + h[:, None], mask=(v < vocabulary)[None, :] & (h < width)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    if bias is not None:
        total += tl.load(bias + v, mask=v < vocabulary, other=0.0).to(tl.float32)[None, :]
    total = total.to(hidden.dtype.element_ty).to(tl.float32)
    return tl.where((v < vocabulary)[None, :], total, float("-inf"))


@triton.jit
def forward(
    hidden,
    weight,
    bias,
    targets,
    top,
    mass,
    mean,
    chosen,
    tokens,
    vocabulary,
    width,
    hidden_m,
    weight_v,
    tiles,
    TILE_M: tl.constexpr,
    TILE_V: tl.constexpr,
    TILE_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write four numbers per token and part of `tiles` tiles of the vocabulary, each [parts, tokens], float32.

    top: the largest logit; mass: sum of e = exp(logit - top); mean: sum of e (logit - top); chosen: the target's logit
    if the part holds it, else 0. When the largest logit rises by r, e shrinks by exp(-r) and mean also loses r mass.
    """
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    target = tl.load(targets + m, mask=m < tokens, other=-1)
    high = tl.full([TILE_M], -1e38, tl.float32)
    sum_e, sum_el, picked = (
        tl.zeros([TILE_M], tl.float32),
        tl.zeros([TILE_M], tl.float32),
        tl.zeros([TILE_M], tl.float32),
    )
    first = tl.program_id(1) * tiles * TILE_V
    for start in range(first, tl.minimum(first + tiles * TILE_V, vocabulary), TILE_V):
        v = start + tl.arange(0, TILE_V)
        logits = _logits(
            hidden,
            weight,
            bias,
            m,
            v,
            tokens,
            vocabulary,
            width,
            hidden_m,
            weight_v,
            TILE_M,
            TILE_V,
            TILE_H,
            PRECISION,
        )
        higher = tl.maximum(high, tl.max(logits, axis=1))
        below = logits - higher[:, None]
        e, shrink = tl.exp(below), tl.exp(high - higher)
        sum_el = shrink * (sum_el + (high - higher) * sum_e) + tl.sum(e * tl.maximum(below, LEAST), axis=1)
        sum_e = shrink * sum_e + tl.sum(e, axis=1)
        high = higher
        picked += tl.sum(tl.where(v[None, :] == target[:, None], logits, 0.0), axis=1)
    at = tl.program_id(1).to(tl.int64) * tokens + m
    tl.store(top + at, high, mask=m < tokens)
    tl.store(mass + at, sum_e, mask=m < tokens)
    tl.store(mean + at, sum_el, mask=m < tokens)
    tl.store(chosen + at, picked, mask=m < tokens)


@triton.jit
def dlogits(
    hidden,
    weight,
    bias,
    targets,
    lse,
    entropy,
    grad_logp,
    grad_entropy,
    out,
    tokens,
    vocabulary,
    width,
    hidden_m,
    weight_v,
    begin,
    columns,
    TILE_M: tl.constexpr,
    TILE_V: tl.constexpr,
    TILE_H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the gradient of the logits of words begin .. begin + columns into `out` [tokens, columns].

    It is g (onehot - p) - k p (log p + E), with g and k the gradients of log-probability and entropy E; either may be
    None.
    """
    m = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    column = tl.program_id(1) * TILE_V + tl.arange(0, TILE_V)
    v = begin + column
    logp = _logits(
        hidden, weight, bias, m, v, tokens, vocabulary, width, hidden_m, weight_v, TILE_M, TILE_V, TILE_H, PRECISION
    )
    logp -= tl.load(lse + m, mask=m < tokens, other=float("inf"))[:, None]
    p = tl.exp(logp)
    result = tl.zeros([TILE_M, TILE_V], tl.float32)
    if grad_entropy is not None:
        k = tl.load(grad_entropy + m, mask=m < tokens, other=0.0).to(tl.float32)
        shift = tl.load(entropy + m, mask=m < tokens, other=0.0)
        result -= k[:, None] * p * (tl.maximum(logp, LEAST) + shift[:, None])
    if grad_logp is not None:
        g = tl.load(grad_logp + m, mask=m < tokens, other=0.0).to(tl.float32)
        target = tl.load(targets + m, mask=m < tokens, other=-1)
        result += g[:, None] * (tl.where(v[None, :] == target[:, None], 1.0, 0.0) - p)
    at = out + m.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=(m < tokens)[:, None] & (column < columns)[None, :])
