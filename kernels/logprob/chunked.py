"""The op in chunks of C tokens: at most two [C, V] buffers of softmax type exist at any time, in both directions.

The gradient of a token's log-probability with respect to its logits is `onehot - p`, that of its entropy `-p (log p +
E)`. Upstream gradients are one number per token and known only in backward, because a ratio or a sequence mean may
sit between the log-probability and the loss. Two cases follow.

* Head trained: backward forms each chunk's logits again (one more product of size C V H) and adds to dW in place.
  Kept between forward and backward: lse and entropy, 2 M numbers, beside the inputs.
* Head frozen (adapters): forward stores `u = W[target] - p W`, [M, H], so backward is `g * u` without any logits.
  The entropy's row `-(p (log p + E)) W` is stored too when its gradient is wanted, another [M, H].

Shapes: M tokens, H hidden width, V vocabulary, C chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def selected_logprob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, entropy_grad: bool = True
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy, both [M]; same arguments and values as the reference.

    `chunk` is the number of tokens whose logits exist at once. With `entropy_grad` false the entropy is a constant.
    """
    result: tuple[Tensor, Tensor] = _Selected.apply(hidden, weight, bias, targets, chunk, entropy_grad)  # type: ignore[no-untyped-call]
    return result


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = functional.linear(hidden, weight, bias)
    return logits if logits.dtype == torch.float64 else logits.float()


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int, entropy_grad: bool
    ) -> tuple[Tensor, Tensor]:
        num = hidden.shape[0]
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logp, lse, entropy = (hidden.new_empty(num, dtype=kind) for _ in range(3))
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        frozen = needs_hidden and not (needs_weight or needs_bias)
        rows = torch.empty_like(hidden) if frozen else None
        entropy_rows = torch.empty_like(hidden) if frozen and entropy_grad else None
        for start in range(0, num, chunk):
            part = slice(start, min(start + chunk, num))
            logp_all = _logits(hidden[part], weight, bias)
            lse[part] = torch.logsumexp(logp_all, dim=-1)
            logp_all.sub_(lse[part, None])
            logp[part] = logp_all.gather(1, targets[part, None]).squeeze(1)
            p = logp_all.exp()
            if rows is not None:
                rows[part] = weight[targets[part]] - p.to(weight.dtype) @ weight
            if entropy_rows is None:
                entropy[part] = -p.mul_(logp_all).sum(dim=-1)
            else:
                # -(p (log p + E)) from (p log p) + E p, in the two buffers that exist.
                logp_all.mul_(p)
                entropy[part] = -logp_all.sum(dim=-1)
                entropy_rows[part] = -logp_all.addcmul_(p, entropy[part, None]).to(weight.dtype) @ weight
        if frozen:
            ctx.save_for_backward(rows, entropy_rows)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy)
        ctx.frozen, ctx.chunk, ctx.entropy_grad = frozen, chunk, entropy_grad
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
        grads = _trained_backward(ctx.saved_tensors, grad_logp, grad_entropy, ctx.chunk, ctx.needs_input_grad[:3])
        return (*grads, None, None, None)


def _frozen_backward(
    rows: Tensor, entropy_rows: Tensor | None, grad_logp: Tensor | None, grad_entropy: Tensor | None
) -> Tensor:
    out = torch.zeros_like(rows)
    if grad_logp is not None:
        out.addcmul_(rows, grad_logp[:, None].to(rows.dtype))
    if grad_entropy is not None and entropy_rows is not None:
        out.addcmul_(entropy_rows, grad_entropy[:, None].to(rows.dtype))
    return out


def _trained_backward(
    saved: tuple[Tensor, ...],
    grad_logp: Tensor | None,
    grad_entropy: Tensor | None,
    chunk: int,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Form each chunk's logits again and accumulate; dW and db gather in the softmax type."""
    hidden, weight, bias, targets, lse, entropy = saved
    grad_hidden = torch.empty_like(hidden) if needs[0] else None
    grad_weight = torch.zeros_like(weight, dtype=lse.dtype) if needs[1] else None
    grad_bias = torch.zeros_like(bias, dtype=lse.dtype) if needs[2] and bias is not None else None
    for start in range(0, hidden.shape[0], chunk):
        part = slice(start, min(start + chunk, hidden.shape[0]))
        logp = _logits(hidden[part], weight, bias).sub_(lse[part, None])
        dlogits = logp.exp()
        if grad_entropy is None:
            assert grad_logp is not None
            dlogits.mul_(-grad_logp[part, None])
        else:
            logp.add_(entropy[part, None]).mul_(grad_entropy[part, None])
            if grad_logp is not None:
                logp.add_(grad_logp[part, None])
            dlogits.mul_(logp.neg_())
        del logp
        if grad_logp is not None:
            dlogits.scatter_add_(1, targets[part, None], grad_logp[part, None])
        if grad_bias is not None:
            grad_bias += dlogits.sum(dim=0)
        dlogits = dlogits.to(weight.dtype)
        if grad_hidden is not None:
            torch.mm(dlogits, weight, out=grad_hidden[part])
        if grad_weight is not None and grad_weight.dtype == weight.dtype:
            grad_weight.addmm_(dlogits.t(), hidden[part])
        elif grad_weight is not None:
            grad_weight += dlogits.t() @ hidden[part]
    cast_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
    return grad_hidden, cast_weight, None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
