"""How logits are computed: what the batcher asks of a model, and which implementation answers.

`packed` decodes the Llama family with weights fused and laid out for the processor's matrix products once per policy.
`stock` runs the forward pass of transformers and serves every other architecture. Both read prompts once and keep
keys and values in the same slots.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from instar.components.rollout.slot_cache import Prefix, SlotCache

Name = Literal["packed", "stock"]


class Forward(Protocol):
    """A model ready to decode. N prompts, W columns, R rows, V vocabulary."""

    name: Name
    reason: str
    compiled: bool
    """Whether a compiled kernel takes part: it rounds otherwise than plain torch."""
    device: torch.device

    def read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Prefix]:
        """Return next-token logits [N, V] and the keys and values of prompts sorted by length."""
        ...

    def step(self, token: Tensor, position: Tensor, cache: SlotCache, columns: int, ragged: bool) -> Tensor:
        """Append `token` [R] at column `position` [R] of the first R slots and return the next logits [R, V].

        `columns` is the largest position plus one; `ragged` says that positions differ.
        """
        ...


def open_forward(model: Any, dtype: torch.dtype, device: str, wanted: Literal["auto", "stock"] = "auto") -> Forward:
    """Return the forward pass that serves `model` in this precision on this device.

    The model itself is left as it is: `stock` copies it where precision or device differ.
    """
    from instar.components.rollout.llama_forward import LlamaForward, refusal
    from instar.components.rollout.stock_forward import StockForward

    why = "named by the caller" if wanted == "stock" else refusal(model)
    if why:
        return StockForward(model, dtype, device, reason=why)
    return LlamaForward(model, dtype, device)
