"""Arranges sequences in micro-batches under a token budget. A micro-batch is one forward pass. There are three layouts.

    none        [prompt 1, answer a, padding]                    one sequence in a row, sorted by length
                [prompt 1, answer b, padding]
    sequence    [prompt 1, answer a, prompt 1, answer b]         several sequences in a row
    prefix      [prompt 1, answer a, answer b]                   and one copy of a prompt for all its answers

`none` needs no mask: padding is on the right, and causal attention never looks to the right. The other two need a mask, so
that a sequence sees only itself. In `prefix` each answer sees the prompt and itself, at the positions that it would have
alone, so a group computes its prompt once. All three give the same log-probabilities up to rounding.

Words: a piece is the sequences that share one copy of a prompt. A row holds one or more pieces.
Shapes: S sequences of the micro-batch, B rows, W width of a row, m action tokens of the micro-batch.
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
"""Row numbers of sequences that share one copy of their prompt, which lies in front of the first."""


@dataclass(frozen=True, kw_only=True)
class Micro:
    """Inputs of one forward pass. They wait in host memory; `to` copies them to the device when their pass runs."""

    rows: Tensor
    """[S] numbers of the rollouts"""
    input_ids: Tensor
    """[B, W] 0 at padding"""
    position_ids: Tensor | None
    """[B, W] when packed: positions that the tokens would have alone"""
    seen: Tensor | None
    """[3, B, W] when packed: of each position its sequence, whose prompt it sees, whose prompt it is part of (`mask`)"""
    head_at: Tensor
    """[m] position, in the flattened rows, whose hidden state predicts the token"""
    targets: Tensor
    """[m] id of the token"""
    sequence: Tensor
    """[m] number of the token's rollout, in `rows`"""
    tokens: Tensor
    """[m] number of the token among the action tokens of all rollouts"""

    def to(self, device: str) -> Micro:
        """Return the same on `device`. For CUDA the copy goes through pinned memory, so that the host need not wait for it."""
        if device == "cpu":
            return self
        sent = {f.name: _sent(getattr(self, f.name), device) for f in dataclasses.fields(self)}
        return Micro(**sent)  # type: ignore[arg-type]


def micro_batches(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[Micro]:
    """Return forward passes, in host memory, in which each of `rows` is once. Rows times width are at most `budget` tokens."""
    return [_build(data, bins, packing != "none") for bins in arrange(data, rows, budget, packing)]


def arrange(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[list[list[Piece]]]:
    """Return the forward passes as nested lists: passes, rows of a pass, pieces of a row."""
    if packing == "none":
        return [[[[r]] for r in part.tolist()] for part in split(rows, data.widths, budget)]
    pieces = share(data, rows, budget) if packing == "prefix" else [[r] for r in rows.tolist()]
    widths = [piece_width(piece, data.widths, data.prompt_lengths) for piece in pieces]
    return pack(pieces, widths, budget)


def shapes(data: UpdateBatch, rows: Ints, budget: int, packing: str) -> list[Shape]:
    """Return rows and width of every forward pass of a layout, without building it."""
    prompts = data.prompt_lengths
    return [
        (len(bins), max(sum(piece_width(piece, data.widths, prompts) for piece in pieces) for pieces in bins))
        for bins in arrange(data, rows, budget, packing)
    ]


def cost(passes: list[Shape]) -> float:
    """Return what forward and backward of these passes cost. The unit is one position of a very short row.

    A position costs 1 + W / W0. The 1 is for the layers without attention, W / W0 for attention over its row. W0 is about 1150,
    and a mask itself costs nothing. Measured on SmolLM2-135M in bfloat16 with one thread (AVX-512), without the head:

        W                       40     256    384         640
        milliseconds/position   4.2    5.1    5.3 (mask)  6.4 (mask)
    """
    return sum(rows * width * (1 + width / ATTENTION_WIDTH) for rows, width in passes)


def choose(data: UpdateBatch, rows: Ints, budget: int) -> str:
    """Return the layout that costs less for these rollouts: `none` or `prefix`.

    Example: 8 answers of 6 tokens share a prompt of 34. `prefix` computes a quarter of the positions and takes a third of the
    time. With 4 answers of 128 tokens and a prompt of 128, it computes three quarters and takes 0.82 of the time. If prompts
    are short or not shared, `none` wins, because its rows are narrower.
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
    """Return micro-batches of `rows` with at most `budget` tokens, padding included. A longer row is alone in its own.

    `widths` [N] count tokens. The longest rows come first: if memory does not suffice, the first pass says so.
    """
    order = rows[np.argsort(-widths[rows], kind="stable")]
    out, start = [], 0
    while start < len(order):
        size = max(1, budget // max(int(widths[order[start]]), 1))
        out.append(order[start : start + size])
        start += size
    return out


def share(data: UpdateBatch, rows: Ints, budget: int) -> list[Piece]:
    """Return `rows` in pieces of equal prompts, in the order in which the prompts come first.

    A group is cut evenly into pieces of the cheapest width. If k answers of t tokens follow a prompt of p, the piece has
    w = p + k t tokens, and each answer costs w / k (1 + w / W0). That is least at w = p + sqrt(p (W0 + p)).
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
    """Return the number of tokens of a piece: one copy of the prompt, and what follows it in each sequence."""
    return int(widths[piece].sum() - (len(piece) - 1) * prompts[piece[0]])


def pack(pieces: list[Piece], widths: list[int], budget: int) -> list[list[list[Piece]]]:
    """Return the pieces packed into rows and the rows dealt to micro-batches.

    A row is as wide as the widest piece. The widest pieces go first, each into the first row with room for it (first-fit
    decreasing).
    """
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
    """Return computed positions over tokens of the sequences. It is 1 without padding, and less where prompts are shared."""
    return sum(m.input_ids.numel() for m in micros) / max(real_tokens, 1)


def mask(seen: Tensor) -> Tensor:
    """Return which position sees which, [B, 1, W, W], on the device of `seen` [3, B, W].

    The third dimension is the query, the fourth the key. A position sees earlier positions of its own sequence and the prompt
    that its piece shares. The mask has W^2 entries for each row, so it lives for one pass only.
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

    `shared` [S] is the length of the prompt that the others of a piece see. It is 0 if there are no others. Padding sees
    padding, so that every query has a key.
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
