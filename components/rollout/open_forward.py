"""Which implementation computes the logits of a model.

`packed` decodes the Llama family. It fuses the weights once per policy and lays them out for the matrix products of the processor.
`stock` runs the forward pass of transformers and serves every other architecture. Both read a prompt once, and both use the same
slots for keys and values.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from instar.components.rollout.forward import Forward
from instar.components.rollout.llama_forward import LlamaForward, refusal
from instar.components.rollout.stock_forward import StockForward


def open_forward(model: Any, dtype: torch.dtype, device: str, wanted: Literal["auto", "stock"] = "auto") -> Forward:
    """Return the forward pass that serves `model` in this precision on this device.

    The model itself does not change. `stock` copies it where precision or device differ.
    """
    why = "named by the caller" if wanted == "stock" else refusal(model)
    if why:
        return StockForward(model, dtype, device, reason=why)
    return LlamaForward(model, dtype, device)
