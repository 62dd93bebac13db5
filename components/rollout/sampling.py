"""Drawing tokens: inverse transform sampling, with one counter-based uniform number per sample seed and position.

Shapes: R rows, V vocabulary, B block of the vocabulary, L positions. No result depends on which rows share a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from instar.kernels.decode import cpp
from instar.kernels.decode import dispatch as kernels

_ONE_LEVEL = 1024
_BLOCK = 256


def uniforms(seeds: Sequence[int], num_positions: int) -> Tensor:
    """Return uniform numbers in [0, 1) as float64 [R, L]. Row r is the Philox stream with the key `seeds[r]`."""
    raw = np.empty((len(seeds), num_positions), dtype=np.uint64)
    stream = np.random.Philox(key=0)
    start = stream.state
    for row, seed in enumerate(seeds):  # re-keying one stream is ten times cheaper than making one per row
        start["state"]["key"][0] = seed
        stream.state = start
        raw[row] = stream.random_raw(num_positions)
    return torch.from_numpy((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def pick(logits: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Do what `draw` does, with the C++ kernel where it is built."""
    if kernels.draws(logits.dtype, logits.device.type):
        return cpp.draw(logits, uniform, temperature)
    return draw(logits, uniform, temperature)


def draw(logits: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Return token ids int64 [R] and their log-probabilities float32 [R] from logits [R, V].

    `uniform` float64 [R] picks tokens by the inverse CDF of softmax(logits / temperature). Without `uniform` the likeliest token is
    taken and scored at temperature 1. A row that is not finite gives a log-probability that is not finite.
    """
    if uniform is None:
        scores = logits.float()
        top, token = scores.max(dim=-1)
        total = torch.exp(scores - top[:, None]).sum(dim=-1, dtype=torch.float64)
        return token, -total.log().float()
    scores = logits if temperature == 1.0 else logits.float() / temperature
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32)
    token = _invert(probabilities, uniform)
    return token, probabilities.gather(1, token[:, None])[:, 0].double().log().float()


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the token [R] at quantile `uniform` of non-negative weights [R, V] with any positive sum.

    A large vocabulary is searched in two levels: first for a block, then inside that block. That needs one pass of sums instead of
    a cumulative sum over V. Partial sums are float64 at both levels.
    """
    rows, vocab = weights.shape
    if vocab <= _ONE_LEVEL:
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        token, _ = _locate(cumulative, uniform * cumulative[:, -1])
        return token
    missing = -vocab % _BLOCK
    blocks = (torch.nn.functional.pad(weights, (0, missing)) if missing else weights).view(rows, -1, _BLOCK)
    sums = blocks.sum(dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    block, below = _locate(cumulative, uniform * cumulative[:, -1])
    inside = blocks[torch.arange(rows, device=weights.device), block].cumsum(dim=-1, dtype=torch.float64)
    within, _ = _locate(inside, uniform * cumulative[:, -1] - below)
    return (block * _BLOCK + within).clamp_(max=vocab - 1)


def _locate(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index [R] whose cumulative value exceeds `target` [R], and the cumulative value before it.

    A target at the end is moved just below the last value, so an entry of weight 0 is never returned.
    """
    limit = torch.nextafter(cumulative[:, -1], torch.zeros_like(target))
    index = torch.searchsorted(cumulative, torch.minimum(target, limit)[:, None], right=True)
    index.clamp_(max=cumulative.shape[1] - 1)
    before = cumulative.gather(1, (index - 1).clamp(min=0)).masked_fill_(index == 0, 0.0)
    return index[:, 0], before[:, 0]
