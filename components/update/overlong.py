"""Answers that run into the length limit (DAPO section 3.4, eq. 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instar.components.update.advantages import Bools, Floats, Ints

if TYPE_CHECKING:
    from instar.components.update.config import Overlong


def soft_penalty(lengths: Ints, max_length: int, buffer: int) -> Floats:
    """Return 0 up to L - C tokens, then (L - C - T) / C, and -1 above L. lengths [N] in action tokens."""
    return np.asarray(np.clip((max_length - buffer - lengths) / buffer, -1.0, 0.0), dtype=np.float64)


def shaped(config: Overlong, reward: Floats, lengths: Ints) -> Floats:
    """Return the reward with the soft penalty added, [N]; unchanged unless `kind` is soft."""
    if config.kind != "soft":
        return reward
    return reward + soft_penalty(lengths, config.max_length, config.buffer)


def included(config: Overlong, truncated: Bools) -> Bools:
    """Return which sequences are in the loss and in its normaliser, [N]: not the truncated ones when `kind` is mask."""
    return ~truncated if config.kind == "mask" else np.ones_like(truncated)
