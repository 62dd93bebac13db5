"""Micro-batches under a token budget, in one of three layouts.

`none`: one sequence per row, sorted by length. Padding is on the right and causal attention never looks right, so no
mask is needed. `sequence`: several sequences per row behind a block-diagonal mask. `prefix`: as `sequence`, and
sequences that start with the same prompt share one copy of it, so a group of G answers computes its prompt once; each
answer attends to the prompt and to itself, at the positions it would have alone. All three give the same
log-probabilities up to rounding.
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

ROW_WIDTH = 1024
"""Packed rows are at most this wide, or as wide as the longest sequence: a mask has W^2 entries per row."""
Piece = list[int]
"""Sequences that share the prompt of the first."""


@dataclass(frozen=True, kw_only=True)
class Micro:
    """Inputs of one forward pass."""

    rows: Tensor
    """[S] rollouts"""
    input_ids: Tensor
    """[B, W]"""
    position_ids: Tensor | None
    """[B, W] when packed"""
    mask: Tensor | None
    """[B, 1, W, W] true where a query (third) may see a key (fourth), when packed"""
    head_at: Tensor
    """[m] flat position whose hidden state predicts the token"""
    targets: Tensor
    """[m]"""
    sequence: Tensor
    """[m] position in `rows`"""
    tokens: Tensor
    """[m] position in the flat action arrays"""


def micro_batches(data: Experience, rows: Ints, budget: int, packing: str, device: str) -> list[Micro]:
    """Return the forward passes that cover `rows` once. `budget` bounds rows times width, in tokens."""
    if packing == "none":
        return [
            _build(data, [[[r]] for r in part.tolist()], device, False) for part in split(rows, data.widths, budget)
        ]
    prompts = data.prompt_lengths
    pieces = share(data, rows, budget) if packing == "prefix" else [[r] for r in rows.tolist()]
    widths = [piece_width(piece, data.widths, prompts) for piece in pieces]
    return [_build(data, bins, device, True) for bins in pack(pieces, widths, budget)]


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


def share(data: Experience, rows: Ints, budget: int) -> list[Piece]:
    """Return `rows` grouped by equal prompts, in first-seen order, cut so that no piece is wider than a row."""
    widths, prompts = data.widths, data.prompt_lengths
    limit = min(budget, ROW_WIDTH)
    by_prompt: dict[bytes, list[Piece]] = {}
    room: dict[bytes, int] = {}
    for row in rows.tolist():
        start = data.token_offset[row]
        key = data.tokens[start : start + prompts[row]].tobytes()
        own = int(widths[row] - prompts[row])
        if key in by_prompt and room[key] >= own:
            by_prompt[key][-1].append(row)
            room[key] -= own
        else:
            by_prompt.setdefault(key, []).append([row])
            room[key] = limit - int(widths[row])
    return [piece for pieces in by_prompt.values() for piece in pieces]


def piece_width(piece: Piece, widths: Ints, prompts: Ints) -> int:
    """Return the tokens of a piece: one prompt and all that follows it in each sequence."""
    return int(widths[piece].sum() - (len(piece) - 1) * prompts[piece[0]])


def pack(pieces: list[Piece], widths: list[int], budget: int) -> list[list[list[Piece]]]:
    """Return micro-batches of rows of pieces: first-fit decreasing into rows as wide as the widest piece."""
    order = sorted(range(len(pieces)), key=lambda i: (-widths[i], i))
    if not order:
        return []
    width = max(widths[order[0]], 1)
    bins: list[list[Piece]] = []
    room: list[int] = []
    for i in order:
        place = next((j for j, free in enumerate(room) if free >= widths[i]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(width)
        bins[place].append(pieces[i])
        room[place] -= widths[i]
    size = max(1, budget // width)
    return [bins[i : i + size] for i in range(0, len(bins), size)]


def padding_ratio(micros: Sequence[Micro], real_tokens: int) -> float:
    """Return computed positions over tokens of the sequences; 1 is no padding, less than 1 is shared prompts."""
    return sum(m.input_ids.numel() for m in micros) / max(real_tokens, 1)


def _build(data: Experience, bins: list[list[Piece]], device: str, packed: bool) -> Micro:
    rows = np.asarray([row for pieces in bins for piece in pieces for row in piece], dtype=np.int64)
    sizes = np.asarray([len(piece) for pieces in bins for piece in pieces], dtype=np.int64)
    first = np.zeros(len(rows), dtype=np.bool_)
    first[np.cumsum(sizes) - sizes] = True
    piece_of = np.cumsum(first) - 1
    bin_of = np.repeat(np.arange(len(bins)), [sum(map(len, pieces)) for pieces in bins])
    # A sequence that is not the first of its piece starts after the shared prompt.
    skip = np.where(first, 0, data.prompt_lengths[rows])
    own, lengths = data.widths[rows] - skip, data.lengths[rows]
    fill = np.bincount(bin_of, weights=own, minlength=len(bins)).astype(np.int64)
    width = int(fill.max())
    start = bin_of * width + (np.cumsum(own) - own) - (np.cumsum(fill) - fill)[bin_of]
    at = ragged(start, own)
    input_ids = np.zeros(len(bins) * width, dtype=np.int64)
    input_ids[at] = data.tokens[ragged(data.token_offset[rows] + skip, own)]
    tokens = ragged(data.action_offset[rows], lengths)
    before = data.action_at[tokens] - np.repeat(data.token_offset[rows], lengths) - 1
    inside = before >= np.repeat(skip, lengths)
    head_at = before + np.where(inside, np.repeat(start - skip, lengths), np.repeat(start[first][piece_of], lengths))
    shape = (len(bins), width)
    positions, mask = None, None
    if packed:
        places = np.tile(np.arange(width), len(bins))
        places[at] = ragged(skip, own)
        positions = _tensor(places, device).view(shape)
        shared = first & (np.bincount(piece_of)[piece_of] > 1)
        mask = _mask(at, own, np.where(shared, data.prompt_lengths[rows], 0), piece_of, shape, device)
    return Micro(
        rows=_tensor(rows, device),
        input_ids=_tensor(input_ids, device).view(shape),
        position_ids=positions,
        mask=mask,
        head_at=_tensor(head_at, device),
        targets=_tensor(data.tokens[data.action_at[tokens]], device),
        sequence=_tensor(np.repeat(np.arange(len(rows)), lengths), device),
        tokens=_tensor(tokens, device),
    )


def _mask(at: Ints, own: Ints, shared: Ints, piece_of: Ints, shape: tuple[int, int], device: str) -> Tensor:
    """Return who sees whom, [B, 1, W, W]: earlier positions of the same sequence, and the prompt its piece shares.

    `shared` [S] is the length of the prompt that others of the piece see, 0 where nobody does. Padding sees padding,
    so that no query is left without a key.
    """
    sequence = np.full(shape[0] * shape[1], -1, dtype=np.int64)
    sequence[at] = np.repeat(np.arange(len(own)), own)
    query = np.full_like(sequence, -1)
    query[at] = np.repeat(piece_of, own)
    # -2 matches no query.
    offset = ragged(np.zeros_like(own), own)
    key = np.full_like(sequence, -2)
    key[at] = np.where(offset < np.repeat(shared, own), np.repeat(piece_of, own), -2)
    s, q, k = (_tensor(values, device).view(shape) for values in (sequence, query, key))
    earlier = torch.ones(shape[1], shape[1], dtype=torch.bool, device=device).tril()
    seen = (s[:, :, None] == s[:, None, :]) | (q[:, :, None] == k[:, None, :])
    return (seen & earlier)[:, None]


def _tensor(values: Ints, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device)
