"""Matrix products with weights that are laid out once for the processor.

oneDNN reorders a plain weight matrix at every call. A decode step has few rows, so the reordering costs as much as the product.
Here it happens once per policy. The products then take 0.5 to 0.8 of the time (`benchmarks/decoding.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Linear = Callable[[Tensor], Tensor]
_SMALLEST = 2**17  # smaller matrices fit the first-level caches, and the call itself costs more than the reordering


def linear(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    """Return the function x [M, K] -> x W^T + b for W [N, K]. The layout is best for M = `rows`; every other M works, too."""
    if not packs(weight):
        return lambda x: torch.nn.functional.linear(x, weight, bias)
    ops: Any = torch.ops.mkldnn
    packed = ops._reorder_linear_weight(weight.contiguous(), rows)
    run = ops._linear_pointwise
    return lambda x: run(x, packed, bias, "none", [], "")


def packs(weight: Tensor) -> bool:
    """Return whether a layout of its own makes products with this weight faster on this machine."""
    backend: Any = torch.backends.mkldnn
    if weight.device.type != "cpu" or weight.numel() < _SMALLEST or not backend.is_available():
        return False
    ops: Any = torch.ops.mkldnn
    if not hasattr(ops, "_reorder_linear_weight") or not hasattr(ops, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16())


def has_bfloat16() -> bool:
    """Return whether this processor has instructions that multiply bfloat16. Without them, converting to float32 is faster."""
    cpu: Any = torch.cpu
    probes = (getattr(cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe is not None and bool(probe()) for probe in probes)
