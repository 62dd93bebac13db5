"""The op in tiles of R tokens by C words: at most two [R, C] buffers of softmax type exist at any time, in both directions.

The gradient of a token's log-probability with respect to its logits is `onehot - p`, that of its entropy `-p (log p +
E)`. Upstream gradients are one number per token and known only in backward, because a ratio or a sequence mean may
sit between the log-probability and the loss. Two cases follow.

* Head trained: forward gathers maximum, sum and entropy over the tiles of a row; backward forms each tile's logits again
  (one more product of size M C V H) and finishes C rows of dW at once. Nearly square tiles keep the products efficient:
  strips of few tokens over the whole vocabulary ran at half the speed, and read and wrote all of dW for each.
  Kept between forward and backward: lse and entropy, 2 M numbers, beside the inputs.
* Head frozen (adapters): forward works in strips over the whole vocabulary and stores `u = W[target] - p W`, [M, H], so
  backward is `g * u` without any logits. The entropy's row `-(p (log p + E)) W` is stored too when its gradient is
  wanted, another [M, H].

Shapes: M tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def selected_logprob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, entropy_grad: bool = True
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy, both [M]; same arguments and values as the reference.

    `chunk` tokens' worth of logits, times V, exist at once. With `entropy_grad` false the entropy is a constant.
    """
    result: tuple[Tensor, Tensor] = _Selected.apply(hidden, weight, bias, targets, chunk, entropy_grad)  # type: ignore[no-untyped-call]
    return result


def tile(tokens: int, vocabulary: int, chunk: int) -> tuple[int, int]:
    """Return (R, C) with R C <= chunk V: whole rows if all tokens fit, else as square as it goes."""
    budget = max(chunk * vocabulary, 1)
    rows = max(1, min(tokens, max(chunk, math.isqrt(budget))))
    return rows, max(1, min(vocabulary, budget // rows))


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = functional.linear(hidden, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


def _inside(targets: Tensor, cols: slice) -> tuple[Tensor, Tensor]:
    """Return which targets [R] lie in `cols`, and their column there, 0 for the others."""
    inside = (targets >= cols.start) & (targets < cols.stop)
    return inside, torch.where(inside, targets - cols.start, 0)


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, entropy_grad: bool
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        ctx.frozen = needs_hidden and not (needs_weight or needs_bias)
        if ctx.frozen:
            logp, entropy, *rows = _frozen_forward(hidden, weight, bias, targets, chunk, entropy_grad)
            ctx.save_for_backward(*rows)
        else:
            logp, lse, entropy = _forward(hidden, weight, bias, targets, chunk)
            ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.chunk, ctx.entropy_grad = chunk, entropy_grad
        ctx.set_materialize_grads(False)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad_logp, grad_entropy = grad_outputs
        if grad_logp is None and grad_entropy is None:
            return (None,) * 6
        if ctx.frozen:
            rows, entropy_rows = ctx.saved_tensors
            return (_frozen_backward(rows, entropy_rows, grad_logp, grad_entropy), *(None,) * 5)
        grads = _backward(ctx.saved_tensors, grad_logp, grad_entropy, ctx.chunk, ctx.needs_input_grad[:3])
        return (*grads, None, None, None)


def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(target), lse and entropy [M], from running sums of exp(l - top) and (l - top) exp(l - top)."""
    num, vocabulary = hidden.shape[0], weight.shape[0]
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logp, lse, entropy = (hidden.new_empty(num, dtype=kind) for _ in range(3))
    height, width = tile(num, vocabulary, chunk)
    for rows in _parts(num, height):
        part, chosen = hidden[rows], torch.zeros_like(logp[rows])
        top = total = moment = torch.empty(0)
        for cols in _parts(vocabulary, width):
            logits = _logits(part, weight[cols], None if bias is None else bias[cols])
            inside, column = _inside(targets[rows], cols)
            chosen = torch.where(inside, logits.gather(1, column[:, None]).squeeze(1), chosen)
            peak = logits.amax(dim=1)
            if cols.start:
                peak = torch.maximum(peak, top)
                scale = (top - peak).exp()
                moment = (moment + total * (top - peak)) * scale
                total = total * scale
            p = logits.sub_(peak[:, None]).exp()
            added = p.sum(dim=1)
            weighted = logits.mul_(p).sum(dim=1)
            total, moment = (total + added, moment + weighted) if cols.start else (added, weighted)
            top = peak
            del logits, p, weighted  # or the next tile would be made beside this one
        lse[rows] = top + total.log()
        logp[rows] = chosen - lse[rows]
        entropy[rows] = total.log() - moment / total
    return logp, lse, entropy


def _backward(
    saved: tuple[Tensor, ...],
    grad_logp: Tensor | None,
    grad_entropy: Tensor | None,
    chunk: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Form each tile's logits again and accumulate. What gathers over several tiles does so in the softmax type."""
    hidden, weight, bias, targets, lse, entropy = saved
    num, vocabulary = hidden.shape[0], weight.shape[0]
    height, width = tile(num, vocabulary, chunk)
    once = num <= height
    grad_hidden = torch.zeros_like(hidden, dtype=lse.dtype) if needs[0] else None
    grad_weight = torch.zeros_like(weight, dtype=weight.dtype if once else lse.dtype) if needs[1] else None
    grad_bias = torch.zeros_like(bias, dtype=lse.dtype) if needs[2] and bias is not None else None
    for rows in _parts(num, height):
        part = hidden[rows]
        up = (None if grad_logp is None else grad_logp[rows], None if grad_entropy is None else grad_entropy[rows])
        for cols in _parts(vocabulary, width):
            logp = _logits(part, weight[cols], None if bias is None else bias[cols]).sub_(lse[rows, None])
            dlogits = _dlogits(logp, up, entropy[rows], *_inside(targets[rows], cols))
            del logp
            if grad_bias is not None:
                grad_bias[cols] += dlogits.sum(dim=0)
            dlogits = dlogits.to(weight.dtype)
            if grad_hidden is not None:
                _add_product(grad_hidden[rows], dlogits, weight[cols])
            if grad_weight is not None:
                _add_product(grad_weight[cols], dlogits.t(), part)
            del dlogits
    return (
        None if grad_hidden is None else grad_hidden.to(hidden.dtype),
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def _dlogits(
    logp: Tensor, up: tuple[Tensor | None, Tensor | None], entropy: Tensor, inside: Tensor, column: Tensor
) -> Tensor:
    """Return the gradient of the logits of a tile [R, C]; `logp` is overwritten."""
    grad_logp, grad_entropy = up
    out = logp.exp()
    if grad_entropy is None:
        assert grad_logp is not None
        out.mul_(-grad_logp[:, None])
    else:
        logp.add_(entropy[:, None]).mul_(grad_entropy[:, None])
        if grad_logp is not None:
            logp.add_(grad_logp[:, None])
        out.mul_(logp.neg_())
    if grad_logp is not None:
        out.scatter_add_(1, column[:, None], torch.where(inside, grad_logp, 0)[:, None])
    return out


def _add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    if out.dtype == a.dtype:
        out.addmm_(a, b)
    else:
        out.add_(a @ b)


def _frozen_forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, entropy_grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return log p(target) and entropy [M], and their gradients with respect to hidden, [M, H] each."""
    num = hidden.shape[0]
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logp, entropy = (hidden.new_empty(num, dtype=kind) for _ in range(2))
    stored = torch.empty_like(hidden)
    entropy_stored = torch.empty_like(hidden) if entropy_grad else None
    for rows in _parts(num, chunk):
        logp_all = _logits(hidden[rows], weight, bias)
        logp_all.sub_(torch.logsumexp(logp_all, dim=-1)[:, None])
        logp[rows] = logp_all.gather(1, targets[rows, None]).squeeze(1)
        p = logp_all.exp()
        stored[rows] = weight[targets[rows]] - p.to(weight.dtype) @ weight
        if entropy_stored is None:
            entropy[rows] = -p.mul_(logp_all).sum(dim=-1)
        else:
            # -(p (log p + E)) from (p log p) + E p, in the two buffers that exist.
            logp_all.mul_(p)
            entropy[rows] = -logp_all.sum(dim=-1)
            entropy_stored[rows] = -logp_all.addcmul_(p, entropy[rows, None]).to(weight.dtype) @ weight
    return logp, entropy, stored, entropy_stored


def _frozen_backward(
    rows: Tensor, entropy_rows: Tensor | None, grad_logp: Tensor | None, grad_entropy: Tensor | None
) -> Tensor:
    out = torch.zeros_like(rows)
    if grad_logp is not None:
        out.addcmul_(rows, grad_logp[:, None].to(rows.dtype))
    if grad_entropy is not None and entropy_rows is not None:
        out.addcmul_(entropy_rows, grad_entropy[:, None].to(rows.dtype))
    return out
