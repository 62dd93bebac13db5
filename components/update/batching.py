"""Micro-batches under a token budget: sequences sorted by length so that rows pad little, or packed several to a row.

Padding is on the right and causal attention never looks right, so no mask is needed and pads change no real token. Packed
rows restart their positions; the model turns restarts into block-diagonal attention.
Shapes: S sequences of the micro-batch, B rows, W row width, m action tokens of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instar.components.update.advantages import Ints
from instar.components.update.experience import Experience, ragged


@dataclass(frozen=True, kw_only=True)
class Micro:
    """Inputs of one forward pass."""

    rows: Tensor
    """[S] rollouts"""
    input_ids: Tensor
    """[B, W]"""
    position_ids: Tensor | None
    """[B, W] when packed"""
    head_at: Tensor
    """[m] flat position whose hidden state predicts the token"""
    targets: Tensor
    """[m]"""
    sequence: Tensor
    """[m] position in `rows`"""
    tokens: Tensor
    """[m] position in the flat action arrays"""


def split(rows: Ints, widths: Ints, budget: int) -> list[Ints]:
    """Return micro-batches of `rows`, longest first, each with rows times longest <= budget (or one row).

    widths [N] in tokens. Longest first, so that the largest micro-batch runs out of memory at once or not at all.
    """
    order = rows[np.argsort(-widths[rows], kind="stable")]
    out, start = [], 0
    while start < len(order):
        size = max(1, budget // max(int(widths[order[start]]), 1))
        out.append(order[start : start + size])
        start += size
    return out


def pack(rows: Ints, widths: Ints, budget: int) -> list[list[Ints]]:
    """Return micro-batches as lists of packed rows: first-fit decreasing into rows as wide as the longest sequence."""
    order = rows[np.argsort(-widths[rows], kind="stable")]
    if not len(order):
        return []
    width = int(widths[order[0]])
    bins: list[list[int]] = []
    room: list[int] = []
    for row in order.tolist():
        need = int(widths[row])
        place = next((i for i, free in enumerate(room) if free >= need), None)
        if place is None:
            bins.append([])
            room.append(width)
            place = len(bins) - 1
        bins[place].append(row)
        room[place] -= need
    size = max(1, budget // max(width, 1))
    packed = [np.asarray(b, dtype=np.int64) for b in bins]
    return [packed[i : i + size] for i in range(0, len(packed), size)]


def micro_batches(experience: Experience, rows: Ints, budget: int, packing: bool, device: str) -> list[Micro]:
    """Return the forward passes that cover `rows` once."""
    widths = experience.widths
    if packing:
        return [_build(experience, bins, device, packed=True) for bins in pack(rows, widths, budget)]
    return [
        _build(experience, [part[i : i + 1] for i in range(len(part))], device, packed=False)
        for part in split(rows, widths, budget)
    ]


def padding_ratio(micros: Sequence[Micro], real_tokens: int) -> float:
    """Return computed positions over real tokens; 1 is no padding."""
    return sum(m.input_ids.numel() for m in micros) / max(real_tokens, 1)


def _build(experience: Experience, bins: list[Ints], device: str, packed: bool) -> Micro:
    rows = np.concatenate(bins)
    widths, lengths = experience.widths[rows], experience.lengths[rows]
    bin_of = np.repeat(np.arange(len(bins)), [len(b) for b in bins])
    fill = np.bincount(bin_of, weights=widths, minlength=len(bins)).astype(np.int64)
    width = int(fill.max())
    before = np.cumsum(widths) - widths
    column = before - (np.cumsum(fill) - fill)[bin_of]
    start = bin_of * width + column
    at = ragged(start, widths)
    input_ids = np.zeros(len(bins) * width, dtype=np.int64)
    input_ids[at] = experience.tokens[ragged(experience.token_offset[rows], widths)]
    tokens = ragged(experience.action_offset[rows], lengths)
    action_at = experience.action_at[tokens]
    shift = np.repeat(start - experience.token_offset[rows], lengths)
    positions = _positions(at, widths, fill, width) if packed else None
    return Micro(
        rows=_tensor(rows, device),
        input_ids=_tensor(input_ids, device).view(len(bins), width),
        position_ids=None if positions is None else _tensor(positions, device).view(len(bins), width),
        head_at=_tensor(action_at + shift - 1, device),
        targets=_tensor(experience.tokens[action_at], device),
        sequence=_tensor(np.repeat(np.arange(len(rows)), lengths), device),
        tokens=_tensor(tokens, device),
    )


def _positions(at: Ints, widths: Ints, fill: Ints, width: int) -> Ints:
    """Return positions that restart at every sequence, [B W]; the padded tail counts as one more sequence."""
    out = (np.tile(np.arange(width), len(fill)) - fill.repeat(width)).clip(min=0)
    out[at] = ragged(np.zeros_like(widths), widths)
    return out


def _tensor(values: Ints, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)
