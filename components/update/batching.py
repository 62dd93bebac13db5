"""Micro-batches under a token budget, in one of three layouts.

`none`: one sequence per row, sorted by length. Padding is on the right and causal attention never looks right, so no
mask is needed. `sequence`: several sequences per row behind a block-diagonal mask. `prefix`: as `sequence`, and
sequences that start with the same prompt share one copy of it, so a group of G answers computes its prompt once; each
answer attends to the prompt and to itself, at the positions it would have alone. All three give the same
log-probabilities up to rounding.
Shapes: S sequences of the micro-batch, B rows, W row width, m action tokens of the micro-batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from instar.components.update.advantages import Ints
from instar.components.update.footprint import ATTENTION_WIDTH, ROW_WIDTH
from instar.components.update.update_batch import UpdateBatch, ragged

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.update.config import PolicyGradientConfig

Shape = tuple[int, int]
"""Rows and width of one forward pass."""
Piece = list[int]
"""Sequences that share the prompt of the first."""


@dataclass(frozen=True, kw_only=True)
class Micro:
    """Inputs of one forward pass. They wait in host memory and visit the device one pass at a time (`to`)."""

    rows: Tensor
    """[S] rollouts"""
    input_ids: Tensor
    """[B, W]"""
    position_ids: Tensor | None
    """[B, W] when packed"""
    seen: Tensor | None
    """[3, B, W] what `mask` is made of, when packed: its sequence, whose prompt it sees, whose prompt it is part of"""
    head_at: Tensor
    """[m] flat position whose hidden state predicts the token"""
    targets: Tensor
    """[m]"""
    sequence: Tensor
    """[m] position in `rows`"""
    tokens: Tensor
    """[m] position in the flat action arrays"""

    def to(self, device: str) -> Micro:
        """Return the same on `device`, by way of pinned memory where that is CUDA: the copy does not stop the host."""
        if device == "cpu":
            return self
        sent = {f.name: _sent(getattr(self, f.name), device) for f in dataclasses.fields(self)}
        return Micro(**sent)  # type: ignore[arg-type]


def micro_batches(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[Micro]:
    """Return the forward passes that cover `rows` once, in host memory. `budget` bounds rows times width, in tokens."""
    return [_build(data, bins, packing != "none") for bins in arrange(data, rows, budget, packing)]


def arrange(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[list[list[Piece]]]:
    """Return for every forward pass its rows of pieces."""
    if packing == "none":
        return [[[[r]] for r in part.tolist()] for part in split(rows, data.widths, budget)]
    pieces = share(data, rows, budget) if packing == "prefix" else [[r] for r in rows.tolist()]
    widths = [piece_width(piece, data.widths, data.prompt_lengths) for piece in pieces]
    return pack(pieces, widths, budget)


def shapes(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[Shape]:
    """Return rows and width of every forward pass of a layout, without building any."""
    prompts = data.prompt_lengths
    return [
        (len(bins), max(sum(piece_width(piece, data.widths, prompts) for piece in pieces) for pieces in bins))
        for bins in arrange(data, rows, budget, packing)
    ]


def cost(found: list[Shape]) -> float:
    """Return what forward and backward of these passes cost, in positions of very short rows.

    A position costs 1 + W / W0: the rest of the layers, and attention over its row. Measured on SmolLM2-135M in bfloat16
    with one thread (AVX-512), the head left out, in milliseconds per position: W 40 4.2, W 256 without a mask 5.1, with one
    W 384 5.3 and W 640 6.4, so W0 is about 1150 and a mask costs nothing by itself.
    """
    return sum(rows * width * (1 + width / ATTENTION_WIDTH) for rows, width in found)


def choose(data: UpdateBatch, rows: Ints, budget: int) -> str:
    """Return the cheaper of `none` and `prefix` for these rollouts (`cost`).

    Shared prompts of 34 tokens with 8 answers of 6 compute a quarter of the positions in a third of the time, prompts of
    128 with 4 answers of 128 three quarters in 0.82. Where prompts are a small part, or nobody shares one, rows of one
    sequence are narrower and win.
    """
    shared = cost(shapes(data, rows, budget, "prefix"))
    return "prefix" if shared < cost(shapes(data, rows, budget, "none")) else "none"


def with_layout(config: PolicyGradientConfig, data: UpdateBatch, policy: Policy) -> PolicyGradientConfig:
    """Return the configuration with a layout in place of `packing=auto`: the cheaper one (`choose`).

    A model with a sliding window gets `none` when a sequence is as long as the window, because the mask of a packed row
    knows no window.
    """
    if config.packing != "auto":
        return config
    shape = policy.read_json("config.json")
    window = shape.get("text_config", shape).get("sliding_window")
    if window and data.widths[data.valid].max(initial=0) >= window:
        return dataclasses.replace(config, packing="none")
    layout = choose(data, np.flatnonzero(data.valid), config.micro_batch_tokens)
    return dataclasses.replace(config, packing="prefix" if layout == "prefix" else "none")


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


def share(data: UpdateBatch, rows: Ints, budget: int) -> list[Piece]:
    """Return `rows` grouped by equal prompts, in first-seen order, cut evenly so that no piece is wider than pays.

    With answers of t tokens, k of them behind a prompt of p make a piece of w = p + k t, and each costs w / k (1 + w / W0):
    least at w = p + sqrt(p (W0 + p)).
    """
    widths, prompts = data.widths, data.prompt_lengths
    limit = min(budget, ROW_WIDTH)
    by_prompt: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        start = data.token_offset[row]
        by_prompt.setdefault(data.tokens[start : start + prompts[row]].tobytes(), []).append(row)
    out: list[Piece] = []
    for same in by_prompt.values():
        prompt, own = int(prompts[same[0]]), widths[same] - prompts[same[0]]
        best = math.sqrt(prompt * (ATTENTION_WIDTH + prompt)) / float(own.mean())
        most = math.ceil(len(same) / math.ceil(len(same) / max(1, round(best))))
        room = size = 0
        for row, width in zip(same, own.tolist(), strict=True):
            if size == 0 or size == most or width > room:
                out.append([])
                room, size = limit - prompt, 0
            out[-1].append(row)
            room, size = room - width, size + 1
    return out


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


def mask(seen: Tensor) -> Tensor:
    """Return who sees whom, [B, 1, W, W], on the device of `seen` [3, B, W]: a query (third) may see a key (fourth).

    Seen are earlier positions of the same sequence, and the prompt that its piece shares. W^2 entries a row: it is made
    for one pass and goes with it.
    """
    sequence, query, key = seen
    earlier = torch.ones(seen.shape[2], seen.shape[2], dtype=torch.bool, device=seen.device).tril()
    may: Tensor = (sequence[:, :, None] == sequence[:, None, :]) | (query[:, :, None] == key[:, None, :])
    return (may & earlier)[:, None]


def _build(data: UpdateBatch, bins: list[list[Piece]], packed: bool) -> Micro:
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
    positions, seen = None, None
    if packed:
        places = np.tile(np.arange(width), len(bins))
        places[at] = ragged(skip, own)
        positions = _tensor(places).view(shape)
        shared = first & (np.bincount(piece_of)[piece_of] > 1)
        seen = _seen(at, own, np.where(shared, data.prompt_lengths[rows], 0), piece_of, shape)
    return Micro(
        rows=_tensor(rows),
        input_ids=_tensor(input_ids).view(shape),
        position_ids=positions,
        seen=seen,
        head_at=_tensor(head_at),
        targets=_tensor(data.tokens[data.action_at[tokens]]),
        sequence=_tensor(np.repeat(np.arange(len(rows)), lengths)),
        tokens=_tensor(tokens),
    )


def _seen(at: Ints, own: Ints, shared: Ints, piece_of: Ints, shape: Shape) -> Tensor:
    """Return what `mask` compares, [3, B, W].

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
    return torch.from_numpy(np.stack([sequence, query, key]).astype(np.int32).reshape(3, *shape))


def _tensor(values: Ints) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


def _sent(value: Tensor | None, device: str) -> Tensor | None:
    if value is not None and device.startswith("cuda"):
        value = value.pin_memory()
    return None if value is None else value.to(device, non_blocking=True)
