"""Drawing without replacement inside an arm, from a position that fits in two integers.

An arm is an endless sequence of shuffles of its pool: when one is used up, a fresh one follows. Shuffle `epoch` is a
pure function of (key, arm, epoch), so the state is (epoch, position) and nothing else. SEC's published loader refills
every arm as soon as one holds fewer prompts than a batch, appending a fresh shuffle; taken from the front, that is this
same sequence for any moment of refilling, and here an arm smaller than the batch is no special case.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from instar import seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Next position of an arm: shuffle number and offset inside it."""

    epoch: int = 0
    position: int = 0


@lru_cache(maxsize=128)
def permutation(key: str, name: str, epoch: int, size: int) -> NDArray[np.int64]:
    """Return shuffle `epoch` of range(size), read-only, [size]. Ties of the sorted uniforms keep file order."""
    uniforms = seeds.rng(key, epoch, "curriculum-permutation", name).random(size)
    order = np.argsort(uniforms, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def take(key: str, name: str, size: int, cursor: Cursor, num: int) -> tuple[list[int], Cursor]:
    """Return the next `num` indices into a pool of `size` tasks and the cursor after them."""
    out: list[int] = []
    epoch, position = cursor.epoch, cursor.position
    while len(out) < num:
        if position >= size:
            epoch, position = epoch + 1, 0
        stop = min(size, position + num - len(out))
        out += permutation(key, name, epoch, size)[position:stop].tolist()
        position = stop
    return out, Cursor(epoch=epoch, position=position)
