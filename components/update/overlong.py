"""What happens to answers that reach the length limit (DAPO, arXiv 2503.14476, section 3.4, eq. 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components.update.advantages import Bools, Floats, Ints

if TYPE_CHECKING:
    from instar.components.update.config import Overlong


def soft_penalty(lengths: Ints, max_length: int, buffer: int) -> Floats:
    """Return the penalty of answers of T tokens: 0 up to L - C, then (L - C - T) / C, and -1 above L.

    L is `max_length` and C is `buffer`. Example: L = 20480 and C = 4096 give -0.5 at 18432 tokens.
    """
    return np.asarray(np.clip((max_length - buffer - lengths) / buffer, -1.0, 0.0), dtype=np.float64)


def shaped(config: Overlong, reward: Floats, lengths: Ints) -> Floats:
    """Return the reward with the soft penalty added, [N]. Without `kind=soft` it is unchanged."""
    if config.kind != "soft":
        return reward
    return reward + soft_penalty(lengths, config.max_length, config.buffer)


def included(config: Overlong, truncated: Bools) -> Bools:
    """Return which sequences count in the loss and in its normaliser, [N]. `kind=mask` leaves truncated ones out."""
    return ~truncated if config.kind == "mask" else np.ones_like(truncated)
