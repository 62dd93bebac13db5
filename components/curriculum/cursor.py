"""Drawing tasks of an arm without replacement. The position is two integers.

An arm is an endless sequence of shuffles of its pool: when one shuffle is used up, a fresh one follows. Shuffle number `epoch` is
a pure function of (key, arm, epoch). So the whole state is (epoch, position).

SEC's published loader keeps a queue for each arm. As soon as one arm holds fewer prompts than a batch, it appends a fresh
shuffle to every queue. Prompts are taken from the front, so each queue is the same sequence as here. Here an arm may be smaller
than a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from instar import seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The next position of an arm: the number of the shuffle, and the offset inside it."""

    epoch: int = 0
    position: int = 0


@lru_cache(maxsize=128)
def permutation(key: str, name: str, epoch: int, size: int) -> NDArray[np.int64]:
    """Return shuffle `epoch` of range(size) as a read-only array, [size]. It sorts random numbers; equal ones keep file order."""
    uniforms = seeds.rng(key, epoch, "curriculum-permutation", name).random(size)
    order = np.argsort(uniforms, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


def take(key: str, name: str, size: int, cursor: Cursor, num: int) -> tuple[list[int], Cursor]:
    """Return the next `num` indices into a pool of `size` tasks, and the cursor after them."""
    out: list[int] = []
    epoch, position = cursor.epoch, cursor.position
    while len(out) < num:
        if position >= size:
            epoch, position = epoch + 1, 0
        stop = min(size, position + num - len(out))
        out += permutation(key, name, epoch, size)[position:stop].tolist()
        position = stop
    return out, Cursor(epoch=epoch, position=position)
