"""Which forward passes a process runs, and how the processes exchange the results.

Every process knows all micro-batches of a step. Process r of N runs the numbers r, r + N, r + 2 N and so on.

    5 micro-batches, 2 processes      round 0   round 1   round 2
    process 0                         0         2         4
    process 1                         1         3         4 again, counted with weight 0

All processes must run equally many passes, because a pass gathers the parameters from all of them, layer by layer.
Loss weights come from counts of the whole step. So gradients and losses are sums over the processes, never means.
Shapes: m action tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from instar.components.update.batching import Micro
    from instar.components.update.trace import Trace


@dataclass(frozen=True)
class Ranks:
    """This is process `rank` of `size`. With one process every method returns what it gets."""

    rank: int = 0
    size: int = 1

    def share(self, micros: Sequence[Micro]) -> list[tuple[Micro, bool]]:
        """Return the passes of this process in order, each with whether it counts."""
        if self.size == 1:
            return [(micro, True) for micro in micros]
        rounds = -(-len(micros) // self.size)
        own = [i * self.size + self.rank for i in range(rounds)]
        # An idle process repeats the final micro-batch, because that one is the narrowest.
        return [(micros[min(i, len(micros) - 1)], i < len(micros)) for i in own]

    def everywhere(
        self, mine: Sequence[Tensor], micros: Sequence[Micro], dtype: torch.dtype, device: str
    ) -> list[Tensor]:
        """Return one [m] tensor for each of `micros`, on all processes. `mine` are those of this process's own passes."""
        if self.size == 1 or not micros:
            return list(mine)
        sizes = [len(micro.tokens) for micro in micros]
        flat = torch.zeros(sum(sizes), dtype=dtype, device=device)
        out = list(torch.split(flat, sizes))
        for part, values in zip(out[self.rank :: self.size], mine, strict=True):
            part.copy_(values)  # each is a view of `flat`
        torch.distributed.all_reduce(flat)
        return out

    def total(self, value: float, device: str) -> float:
        """Return the sum of `value` over the processes."""
        if self.size == 1:
            return value
        out = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(out)
        return float(out)

    def gather(self, trace: Trace, steps: Sequence[Sequence[Micro]], dtype: torch.dtype, device: str) -> None:
        """Complete `trace` with what the other processes saw. `steps` are the micro-batches of each optimiser step."""
        if self.size == 1:
            return
        everything = [micro for step in steps for micro in step]
        # Every step deals its passes from process 0 on, so the records of this process lie step after step.
        ends = [0]
        for step in steps:
            ends.append(ends[-1] + len(step[self.rank :: self.size]))

        def whole(mine: Sequence[Tensor]) -> list[Tensor]:
            parts = [mine[a:b] for a, b in pairwise(ends)]
            return [
                x for part, step in zip(parts, steps, strict=True) for x in self.everywhere(part, step, dtype, device)
            ]

        def pairs(mine: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
            if not self.total(len(mine), device):
                return []
            return list(zip(whole([a for a, _ in mine]), whole([b for _, b in mine]), strict=True))

        trace.log_w, trace.entropy = whole(trace.log_w), whole(trace.entropy)
        trace.kl, trace.values = pairs(trace.kl), pairs(trace.values)
        trace.tokens = [micro.tokens for micro in everything]
        low, high = (self.total(sum(x[i] for x in trace.clipped), device) for i in (0, 1))
        trace.clipped = [(int(low), int(high))] if everything else []
