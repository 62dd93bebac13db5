"""Keys and values of the samples in flight: one slot per sample, each at a column of its own.

Shapes: S slots, R live rows, H key-value heads, C allocated columns, D head width, W prompt columns.
Live rows always fill the slots 0..R-1: a sample that ends leaves a hole, and the last row moves into it. So a decode step
works on a view of the first R slots, and what is moved is one row per sample, not the cache per step. Column c of a row
holds its token c. Columns are allocated in growing blocks, never concatenated. A block that the device has no room for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instar.errors import ConfigError

Prefix = list[tuple[Tensor, Tensor]]
"""Keys and values [N, H, W, D] per layer of N prompts that were read; columns behind a prompt's end hold anything finite."""

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
        """Allocate at least `columns` columns, half as many again when there were too few, never more than `limit`."""
        if columns <= self.columns:
            return
        extra = min(limit, max(columns, self.columns + max(_BLOCK, self.columns // 2))) - self.columns
        slots, device = self.keys[0].shape[0], self.keys[0].device.type
        beside = self.keys[0].nbytes  # of one tensor the old and the new one exist at once
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
        """Copy the first `columns` columns of the slots `source` into the slots `target`; no slot is in both."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                for a, b in zip(source, target, strict=True):
                    tensor[b, :, :columns] = tensor[a, :, :columns]


def _check_room(wanted: int, slots: int, columns: int, device: str) -> None:
    """Raise `ConfigError` when `wanted` more bytes are not free on the device."""
    from instar.components.update.memory import available_bytes

    free = available_bytes(device)
    if wanted > free:
        raise ConfigError(
            expected=f"{wanted / 2**30:.2f} GiB more for keys and values of {slots} rows x {columns} columns",
            found=f"{free / 2**30:.2f} GiB free on {device}",
            where="rollout.engine.max_rows",
            action="lower it (also of evaluate and test, if it was reached there): rows then wait for each other, and no "
            "answer is another one; `instar plan` says how many fit",
        )


def first_columns(longest: int, limit: int) -> int:
    """Return the columns to start with for prompts of `longest` tokens and at most `limit` columns in all."""
    return min(limit, longest + max(_BLOCK, longest // 2))


def passes(prompts: list[tuple[int, ...]], tokens: int) -> list[list[tuple[int, ...]]]:
    """Split prompts, sorted by length, into passes of at most `tokens` padded tokens, or of one prompt."""
    made: list[list[tuple[int, ...]]] = [[]]
    for prompt in prompts:
        if made[-1] and len(prompt) * (len(made[-1]) + 1) > tokens:
            made.append([])
        made[-1].append(prompt)
    return made
