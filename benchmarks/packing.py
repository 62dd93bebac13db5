"""Real tokens over computed positions of a forward pass: batches in arrival order, sorted by length, and packed.

Lengths are drawn as answers are: log-normal, cut at the limit. The ratio counts positions, so it does not depend on the
machine. Every sequence must be in exactly one micro-batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from instar import seeds
from instar.components.update.batching import pack, split

BAR = 0.8
CASES = (("short answers", 512, 40, 0.6, 128, 8192), ("long answers", 1024, 700, 0.9, 4096, 32_768))
"""name, sequences, median tokens, sigma of log length, limit, positions per micro-batch"""


def run() -> list[dict[str, Any]]:
    """Return one row per distribution of lengths."""
    out = []
    for name, num, median, sigma, limit, budget in CASES:
        rng = seeds.rng("benchmark", 0, "packing", name)
        widths = np.clip(rng.lognormal(np.log(median), sigma, num).astype(np.int64), 1, limit)
        order = np.arange(num)
        by_length, real = split(order, widths, budget), int(widths.sum())
        packed = pack([[i] for i in order.tolist()], widths.tolist(), budget)
        assert sorted(np.concatenate(by_length).tolist()) == order.tolist()
        assert sorted(i for rows in packed for row in rows for piece in row for i in piece) == order.tolist()
        fixed = max(budget // limit, 1)
        plain = [order[i : i + fixed] for i in range(0, num, fixed)]
        share = {
            "arrival_order": real / sum(len(b) * int(widths[b].max()) for b in plain),
            "sorted": real / sum(len(b) * int(widths[b].max()) for b in by_length),
            "packed": real / sum(len(rows) * max(filled(row, widths) for row in rows) for rows in packed),
        }
        best = max(share["sorted"], share["packed"])
        out.append({"row": name, **share, "bar": f">= {BAR}", "met": best >= BAR})
    return out


def filled(row: list[list[int]], widths: NDArray[np.int64]) -> int:
    """Return the tokens of a packed row."""
    return sum(int(widths[i]) for piece in row for i in piece)
