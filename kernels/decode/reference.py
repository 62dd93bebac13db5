"""The operations in plain torch: the truth that the C++ kernel is held to, and what runs without it.

Shapes: R rows, A query heads, H key-value heads, G = A / H, D head width, E hidden, I intermediate, S slots, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(kw_only=True, slots=True)
class Where:
    """Where a step writes and what it sees, equal for all layers: angles [R, 1, D], column per row [R], columns in use."""

    cos: Tensor
    sin: Tensor
    position: Tensor
    columns: int
    ragged: bool
    _mask: Tensor | None = field(default=None, init=False)
    _rows: Tensor | None = field(default=None, init=False)

    def rows(self) -> Tensor:
        """Return 0..R-1, made once per step."""
        if self._rows is None:
            self._rows = torch.arange(len(self.position), device=self.position.device)
        return self._rows

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """Return the additive mask [R, 1, 1, columns], or None where every row sees every column."""
        if self.ragged and self._mask is None:
            self._mask = open_mask(self.position, self.columns, dtype)
        return self._mask


def open_mask(position: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [R, 1, 1, columns] that lets row r see the columns 0..position[r]."""
    hidden = torch.arange(columns, device=position.device)[None] > position[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=position.device)
    return mask.masked_fill_(hidden, float("-inf"))[:, None, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x [..., D] turned by the angles; the halves of D are the two coordinates."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def attend(qkv: Tensor, keys: Tensor, values: Tensor, where: Where) -> Tensor:
    """Turn, store and attend: qkv [R, A + 2 H, D], keys and values [S, H, C, D] -> [R, A D].

    Keys and values of row r are written to column position[r] of slot r; the row sees the columns up to that one.
    """
    rows, heads = len(qkv), keys.shape[1]
    num_queries = qkv.shape[1] - 2 * heads
    turned = rotate(qkv[:, :-heads], where.cos, where.sin)
    keys[where.rows(), :, where.position] = turned[:, num_queries:]
    values[where.rows(), :, where.position] = qkv[:, -heads:]
    # Queries of one key-value head stand side by side, as if they were positions: its keys are read once.
    q = turned[:, :num_queries].reshape(rows, heads, num_queries // heads, -1)
    out = functional.scaled_dot_product_attention(
        q, keys[:rows, :, : where.columns], values[:rows, :, : where.columns], where.mask(q.dtype)
    )
    return out.reshape(rows, -1)


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `delta` to x [R, E] in place and return the root-mean-square norm of the sum, scaled by `weight` [E]."""
    if delta is not None:
        x += delta
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up from [R, 2 I]."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate).mul_(up)
