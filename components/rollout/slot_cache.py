"""Keys and values of the samples that are being decoded. Each sample has a slot, and column c of a slot holds its token c.

Shapes: S slots, R live rows, H key-value heads, C allocated columns, D head width, W prompt columns.

- Live rows always fill the slots 0 to R - 1. When a sample ends, the last row moves into its slot. So a decode step works on a view
  of the first R slots, and only one row moves per ended sample.
- Columns are allocated in growing blocks, not one per step. A block for which the device has no room is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instar.errors import ConfigError

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values [N, H, W, D] per layer, of N prompts that were read. Columns after the end of a prompt hold any finite value."""

_BLOCK = 32


class SlotCache:
    """One tensor [S, H, C, D] of keys and one of values per layer."""

    def __init__(self, like: Prefix, slots: int, columns: int) -> None:
        self.column_bytes = sum(t.shape[1] * t.shape[3] * t.element_size() for pair in like for t in pair)
        """Bytes of one column of one slot in all layers."""
        _check_room(self.column_bytes * slots * columns, slots, columns, like[0][0].device.type)
        # Zeros, not empty memory: masked columns still enter a product with probability 0, and 0 * NaN is NaN.
        self.keys = [k.new_zeros(slots, k.shape[1], columns, k.shape[3]) for k, _ in like]
        self.values = [v.new_zeros(slots, v.shape[1], columns, v.shape[3]) for _, v in like]

    @property
    def columns(self) -> int:
        """Allocated columns."""
        return self.keys[0].shape[2]

    def reserve(self, columns: int, limit: int) -> None:
        """Allocate at least `columns` columns. When there are too few, half as many again are added, up to `limit` in all."""
        if columns <= self.columns:
            return
        extra = min(limit, max(columns, self.columns + max(_BLOCK, self.columns // 2))) - self.columns
        slots, device = self.keys[0].shape[0], self.keys[0].device.type
        beside = self.keys[0].nbytes  # the old and the new version of one tensor exist at once
        _check_room(self.column_bytes * slots * extra + beside, slots, self.columns + extra, device)
        for tensors in (self.keys, self.values):
            for i, tensor in enumerate(tensors):
                tensors[i] = torch.nn.functional.pad(tensor, (0, 0, 0, extra))

    def place(self, first: int, prefix: Prefix, owner: Tensor) -> None:
        """Copy prompt `owner[i]` of `prefix` into slot `first + i`, for all i."""
        slots = slice(first, first + len(owner))
        for i, (keys, values) in enumerate(prefix):
            self.keys[i][slots, :, : keys.shape[2]] = keys[owner]
            self.values[i][slots, :, : values.shape[2]] = values[owner]

    def move(self, source: Sequence[int], target: Sequence[int], columns: int) -> None:
        """Copy the first `columns` columns of the slots `source` into the slots `target`. No slot is in both."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                for a, b in zip(source, target, strict=True):
                    tensor[b, :, :columns] = tensor[a, :, :columns]


def _check_room(wanted: int, slots: int, columns: int, device: str) -> None:
    """Raise `ConfigError` when fewer than `wanted` bytes are free on the device."""
    from instar.components.update.memory import available_bytes

    free = available_bytes(device)
    if wanted > free:
        raise ConfigError(
            expected=f"{wanted / 2**30:.2f} GiB more for keys and values of {slots} rows x {columns} columns",
            found=f"{free / 2**30:.2f} GiB free on {device}",
            where="rollout.engine.max_rows",
            action="lower it (and engine.max_rows of evaluate and test, if the error came from there); rows then wait for each "
            "other, and no answer changes; `instar plan` says how many rows fit",
        )


def first_columns(longest: int, limit: int) -> int:
    """Return how many columns to start with, for prompts of up to `longest` tokens and rows of up to `limit` columns."""
    return min(limit, longest + max(_BLOCK, longest // 2))


def passes(prompts: list[tuple[int, ...]], tokens: int) -> list[list[tuple[int, ...]]]:
    """Split prompts that are sorted by length into passes. A pass has at most `tokens` padded tokens, or a single prompt."""
    parts: list[list[tuple[int, ...]]] = [[]]
    for prompt in prompts:
        if parts[-1] and len(prompt) * (len(parts[-1]) + 1) > tokens:
            parts.append([])
        parts[-1].append(prompt)
    return parts
