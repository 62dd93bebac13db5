"""Keyed randomness: every random number of a run comes from `seed(evolution, iteration, stage, item)`.

A seed is a hash of names, not a position in a stream. So a stage draws the same numbers when it runs again, on another
machine or in another order. Nothing in instar seeds a global generator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed(evolution: str, iteration: int, stage: str, item: int | str = 0) -> int:
    """Return a 63-bit seed. It depends on the four keys alone."""
    text = "\x1f".join([evolution, str(int(iteration)), stage, str(item)])
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"instar-seed").digest()
    return int.from_bytes(digest, "big") >> 1


def rng(evolution: str, iteration: int, stage: str, item: int | str = 0) -> np.random.Generator:
    """Return a numpy generator for the given keys."""
    return np.random.Generator(np.random.PCG64(seed(evolution, iteration, stage, item)))


def torch_generator(value: int, device: str = "cpu") -> torch.Generator:
    """Return a torch generator that starts at `value`, a result of `seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(value)
