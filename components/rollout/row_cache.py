"""A key-value cache for rows that share prompts and finish at different times.

Shapes: R rows, H key-value heads, C allocated columns, K used columns, D head width.
Every row writes its next token in the same column, so an update is a slice assignment: no concatenation per token.
Columns are allocated ahead in growing blocks, and finished rows are dropped by `select`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

_FIRST_BLOCK = 32


class RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values [R, H, C, D] of one layer, of which the first `used` columns count."""

    keys: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    values: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, rows: int, like_keys: Tensor, like_values: Tensor, used: int, capacity: int) -> None:
        super().__init__()
        # Zeros, not empty memory: masked columns still enter a product with probability 0, and 0 * NaN is NaN.
        self.keys = like_keys.new_zeros(rows, like_keys.shape[1], capacity, like_keys.shape[3])
        self.values = like_values.new_zeros(rows, like_values.shape[1], capacity, like_values.shape[3])
        self.used = used
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the layer is built from a prefix."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new columns [R, H, q, D] and return views of all used columns."""
        end = self.used + key_states.shape[2]
        if end > self.keys.shape[2]:
            self._grow(end)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grow(self, needed: int) -> None:
        extra = needed - self.keys.shape[2] + max(_FIRST_BLOCK, self.keys.shape[2] // 2)
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))  # pyright: ignore[reportIncompatibleVariableOverride]
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))  # pyright: ignore[reportIncompatibleVariableOverride]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the key length after the next update, and offset 0."""
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        """Return the used columns."""
        return self.used

    def get_max_length(self) -> int:
        """Return -1: the layer grows."""
        return -1


class RowCache(Cache):  # type: ignore[misc]
    """The layers of `rows` samples whose prompts take the first `columns` columns."""

    rows: list[RowLayer]

    def __init__(self, prefix: DynamicCache, rows: int, columns: int, max_columns: int) -> None:
        capacity = min(max_columns, columns + max(_FIRST_BLOCK, columns // 2))
        self.rows = [RowLayer(rows, keys, values, columns, capacity) for keys, values in _pairs(prefix)]
        super().__init__(layers=[*self.rows])

    def fill(self, first: int, prefix: DynamicCache, owner: Tensor) -> None:
        """Copy prompt `owner[i]` of a prefilled cache into row `first + i`, for all i."""
        for layer, (keys, values) in zip(self.rows, _pairs(prefix), strict=True):
            width, rows = keys.shape[2], slice(first, first + len(owner))
            layer.keys[rows, :, :width] = keys[owner]
            layer.values[rows, :, :width] = values[owner]

    def select(self, keep: Tensor) -> None:
        """Keep only the rows `keep`, in that order."""
        for layer in self.rows:
            layer.keys, layer.values = layer.keys[keep], layer.values[keep]


def _pairs(prefix: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    layers: Any = prefix.layers
    return [(layer.keys, layer.values) for layer in layers]
