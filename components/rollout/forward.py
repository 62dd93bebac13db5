"""What the batcher asks of a model: to read prompts, and to append one token per row. `open_forward` chooses the implementation."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from instar.components.rollout.slot_cache import Prefix, SlotCache

Name = Literal["packed", "stock"]


class Forward(Protocol):
    """A model ready to decode. N prompts, W columns, R rows, V vocabulary."""

    name: Name
    reason: str
    compiled: bool
    """Whether a compiled kernel takes part. It rounds differently from plain torch."""
    device: torch.device

    def read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Prefix]:
        """Return the next-token logits [N, V] of prompts that are sorted by length, with their keys and values."""
        ...

    def step(self, token: Tensor, position: Tensor, cache: SlotCache, columns: int, ragged: bool) -> Tensor:
        """Append `token` [R] at column `position` [R] of the first R slots and return the next logits [R, V].

        `columns` is the largest position plus one. `ragged` says that the positions of the rows differ.
        """
        ...
