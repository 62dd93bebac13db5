"""Which implementation computes the logits of a model.

`packed` decodes the Llama family with weights fused and laid out for the processor's matrix products once per policy.
`stock` runs the forward pass of transformers and serves every other architecture. Both read prompts once and keep
keys and values in the same slots.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from instar.components.rollout.forward import Forward
from instar.components.rollout.llama_forward import LlamaForward, refusal
from instar.components.rollout.stock_forward import StockForward


def open_forward(model: Any, dtype: torch.dtype, device: str, wanted: Literal["auto", "stock"] = "auto") -> Forward:
    """Return the forward pass that serves `model` in this precision on this device.

    The model itself is left as it is: `stock` copies it where precision or device differ.
    """
    why = "named by the caller" if wanted == "stock" else refusal(model)
    if why:
        return StockForward(model, dtype, device, reason=why)
    return LlamaForward(model, dtype, device)
