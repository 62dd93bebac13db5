"""The op on CUDA: forward keeps no logits at all, backward a slice [M, columns] of their gradient at a time.

Forward: a program walks tiles of the vocabulary for one tile of tokens and keeps the largest logit, the sum of
exponentials and their mean logit, from which log-probability and entropy follow. Large vocabularies are cut into parts,
so that few tokens fill the device too; torch adds the parts up.

Backward: for each slice of the vocabulary one kernel forms the logits again and writes their gradient in the input
type; two matrix products of torch follow, `dhidden += dlogits W` in float32 and `dW = dlogits' hidden`, complete for
the slice's words. Logits are formed once, where a kernel without the slice would form them for both products. Whether
the head is trained changes only which products run. No float atomics: equal inputs give equal bits.

Types: float32, bfloat16, float16. CUDA tensors, or CPU tensors when the process started with TRITON_INTERPRET=1. Needs
the extra `gpu`. Shapes: M tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from instar.errors import ConfigError
from instar.kernels.logprob import triton_logprob_kernels as kernels

TILE = {"TILE_M": 128, "TILE_V": 128, "TILE_H": 64}
TILE_FLOAT32 = {"TILE_M": 64, "TILE_V": 64, "TILE_H": 32}
PROGRAMS = 264
"""Programs that forward aims at, two for each multiprocessor of an H100; the count follows from the shape alone."""
PART_TILES = 4
"""Fewest tiles of the vocabulary in a part."""
_KERNELS: Any = kernels
_on: Any = torch.cuda.device_of


def selected_logprob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, columns: int, entropy_grad: bool = True
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy, both [M] in float32; arguments and values of the reference.

    `columns` words of the vocabulary have their gradient in memory at once. With `entropy_grad` false the entropy is a
    constant. A target outside the vocabulary makes its log-probability NaN: a check would wait for the device. Other
    devices and types are a `ConfigError`.
    """
    problem = refusal(hidden.device.type, hidden.element_size())
    if problem:
        raise ConfigError(
            expected="float32, bfloat16 or float16 on a CUDA device",
            found=f"{hidden.dtype} on {hidden.device}",
            where="logprob:triton",
            action="use the backend `auto`, or start the process with TRITON_INTERPRET=1 to try the kernels",
        )
    result: tuple[Tensor, Tensor] = _Selected.apply(hidden, weight, bias, targets, columns, entropy_grad)  # type: ignore[no-untyped-call]
    return result


def refusal(device: str, itemsize: int) -> str:
    """Return why the kernels cannot run on a type of device for numbers of a size in bytes; empty if they can."""
    if device != "cuda" and not kernels.INTERPRETED:
        return f"the Triton kernels run on CUDA, not on {device}"
    return "the Triton kernels have no float64" if itemsize > 4 else ""


def _settings(hidden: Tensor) -> dict[str, Any]:
    """Return block sizes and launch options; float32 products follow torch's own switch for TF32."""
    full = hidden.dtype == torch.float32
    exact = full and torch.get_float32_matmul_precision() == "highest"
    return {**(TILE_FLOAT32 if full else TILE), "PRECISION": "ieee" if exact else "tf32", "num_warps": 4 if full else 8}


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def parts(num_tokens: int, vocabulary: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Return into how many parts forward cuts the vocabulary, and the tiles of each."""
    tiles = _ceil(vocabulary, settings["TILE_V"])
    wanted = _ceil(PROGRAMS, _ceil(num_tokens, settings["TILE_M"]))
    each = max(_ceil(tiles, wanted), min(PART_TILES, tiles))
    return _ceil(tiles, each), each


def _statistics(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p(target), log of the sum of exponentials, and entropy, each [M]."""
    settings = _settings(hidden)
    (num, width), vocabulary = hidden.shape, weight.shape[0]
    if num == 0:
        empty = hidden.new_empty(0, dtype=torch.float32)
        return empty, empty, empty
    count, each = parts(num, vocabulary, settings)
    top, mass, mean, chosen = hidden.new_empty(4, count, num, dtype=torch.float32)
    with _on(hidden):
        _KERNELS.forward[(_ceil(num, settings["TILE_M"]), count)](
            hidden,
            weight,
            bias,
            targets,
            top,
            mass,
            mean,
            chosen,
            num,
            vocabulary,
            width,
            hidden.stride(0),
            weight.stride(0),
            each,
            **settings,
        )
    high = top.amax(dim=0)
    shrink = (top - high).exp_()
    total = (mass * shrink).sum(dim=0)
    mean_logit = ((mean + (top - high) * mass) * shrink).sum(dim=0) / total
    log_total = total.log()
    lse = high + log_total
    logp = chosen.sum(dim=0) - lse
    logp.masked_fill_((targets < 0) | (targets >= vocabulary), float("nan"))
    return logp, lse, log_total - mean_logit


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, columns: int, entropy_grad: bool
    ) -> tuple[Tensor, Tensor]:
        rows, head = (x if x.stride(1) == 1 else x.contiguous() for x in (hidden, weight))
        bias = None if bias is None else bias.contiguous()
        targets = targets.contiguous()
        logp, lse, entropy = _statistics(rows, head, bias, targets)
        ctx.save_for_backward(rows, head, bias, targets, lse, entropy)
        ctx.columns = columns
        ctx.set_materialize_grads(False)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grad_outputs):
            return (None,) * 6
        return (*_backward(ctx.saved_tensors, grad_outputs, ctx.columns, ctx.needs_input_grad[:3]), None, None, None)


def _backward(
    saved: tuple[Tensor, ...], grads: tuple[Tensor | None, ...], columns: int, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Walk the slices of the vocabulary; each fills its own rows of dW and db and adds to dhidden."""
    hidden, weight, bias, targets, lse, entropy = saved
    settings = _settings(hidden)
    (num, width), vocabulary = hidden.shape, weight.shape[0]
    grads = tuple(None if grad is None else grad.contiguous() for grad in grads)
    grad_hidden = hidden.new_zeros(num, width, dtype=torch.float32) if needs[0] else None
    grad_weight = weight.new_empty(vocabulary, width) if needs[1] else None
    grad_bias = None if bias is None or not needs[2] else torch.empty_like(bias)
    buffer = hidden.new_empty(num * min(columns, vocabulary))
    for begin in range(0, vocabulary, columns):
        part = slice(begin, min(begin + columns, vocabulary))
        size = part.stop - part.start
        slopes = buffer[: num * size].view(num, size)
        if num:
            with _on(hidden):
                _KERNELS.dlogits[(_ceil(num, settings["TILE_M"]), _ceil(size, settings["TILE_V"]))](
                    hidden,
                    weight,
                    bias,
                    targets,
                    lse,
                    entropy,
                    *grads,
                    slopes,
                    num,
                    vocabulary,
                    width,
                    hidden.stride(0),
                    weight.stride(0),
                    begin,
                    size,
                    **settings,
                )
        if grad_hidden is not None:
            _add_product(grad_hidden, slopes, weight[part])
        if grad_weight is not None:
            torch.mm(slopes.t(), hidden, out=grad_weight[part])
        if grad_bias is not None:
            grad_bias[part] = slopes.sum(dim=0, dtype=torch.float32)
    return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add `a @ b` to float32 `total`; the product of half types is not rounded to them."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        total += torch.mm(a, b, out_dtype=torch.float32)
    else:
        total.addmm_(a.float(), b.float())
