"""The forward pass of transformers over slots. It serves every causal language model with attention over all positions.

Prompts of different lengths are read in two passes. The first pass reads every prompt without its last token, padded on the
right. Causal attention needs no mask there. The second pass reads the last tokens, in column W - 1 of every row. Their keys and
values then move to the end of their own prompts. The gap is masked and position ids count real tokens. So the logits equal
those of a pass without padding, up to rounding.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from instar.components.policy_io import cast_copy
from instar.components.rollout.forward import Name
from instar.components.rollout.slot_cache import Prefix, SlotCache
from instar.kernels.decode.dispatch import draws
from instar.kernels.decode.reference import open_mask


class StockForward:
    """A model of transformers. It is copied when precision or device must change."""

    name: Name = "stock"

    def __init__(self, model: Any, dtype: torch.dtype, device: str, *, reason: str) -> None:
        if model.dtype != dtype or model.device.type != device:
            model = cast_copy(model, dtype, device)  # rotary frequencies keep their precision
        self._model, self.reason, self.device = model, reason, model.device
        self._cache = cache_argument(model)
        self.compiled = draws(torch.float32, device)

    def read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Prefix]:
        """Return the next-token logits [N, V] of prompts that are sorted by length, with their keys and values."""
        cache, device, width = DynamicCache(), self.device, len(prompts[-1])
        if len(prompts[0]) == width:
            logits = self._run(torch.tensor(prompts, device=device), None, cache, None)
            return logits, _prefix(cache)
        head = width - 1
        filled = [[*p[:-1], *p[-1:] * (head - len(p) + 1)] for p in prompts]
        self._run(torch.tensor(filled, device=device), None, cache, None)
        last_tokens = torch.tensor([[p[-1]] for p in prompts], device=device)
        end = torch.tensor([len(p) - 1 for p in prompts], device=device)
        mask = open_mask(end - 1, width, self._model.dtype)
        mask[..., -1] = 0.0
        logits, prefix = self._run(last_tokens, end[:, None], cache, mask), _prefix(cache)
        rows = torch.arange(len(prompts), device=device)
        for tensor in (tensor for pair in prefix for tensor in pair):
            tensor[rows, :, end] = tensor[:, :, -1].clone()
        return logits, prefix

    def step(self, token: Tensor, position: Tensor, cache: SlotCache, columns: int, ragged: bool) -> Tensor:
        """Append `token` [R] at `position` [R] and return the next logits [R, V]."""
        mask = open_mask(position, columns, self._model.dtype) if ragged else None
        return self._run(token[:, None], position[:, None], _StepCache(cache, position, columns), mask)

    def _run(self, ids: Tensor, position: Tensor | None, cache: Any, mask: Tensor | None) -> Tensor:
        if position is None:
            position = torch.arange(ids.shape[1], device=ids.device)[None]
        out = self._model(
            input_ids=ids,
            position_ids=position,
            attention_mask=mask,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache: cache},
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def cache_argument(model: Any) -> str:
    """Return the name of the argument in which a model takes its cache.

    It is `cache` since transformers 5.24 and `past_key_values` before. Version 5.24 still accepts the old name, but warns that 5.40
    will not.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class _StepLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of the slots during one step. The new key and value of row r go to column position[r]."""

    def __init__(self, cache: SlotCache, layer: int, position: Tensor, columns: int) -> None:
        super().__init__()
        self.slots = cache.keys[layer], cache.values[layer]
        self.position, self.columns = position, columns
        self.rows = torch.arange(len(position), device=position.device)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing, because the slots exist already."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store [R, H, 1, D] and return views [R, H, columns, D]."""
        keys, values = (tensor[: len(self.rows)] for tensor in self.slots)
        keys[self.rows, :, self.position] = key_states[:, :, 0]
        values[self.rows, :, self.position] = value_states[:, :, 0]
        return keys[:, :, : self.columns], values[:, :, : self.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys, and offset 0."""
        return self.columns, 0

    def get_seq_length(self) -> int:
        """Return the number of columns that were in use before this step."""
        return self.columns - 1

    def get_max_length(self) -> int:
        """Return -1, which means no limit, because the slots grow."""
        return -1


class _StepCache(Cache):  # type: ignore[misc]
    def __init__(self, cache: SlotCache, position: Tensor, columns: int) -> None:
        super().__init__(layers=[_StepLayer(cache, i, position, columns) for i in range(len(cache.keys))])


def _prefix(cache: DynamicCache) -> Prefix:
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]
