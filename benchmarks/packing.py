"""Real tokens over computed positions of a forward pass: batches in arrival order, sorted by length, and packed.

Lengths are drawn as answers are: log-normal, cut at the limit. The ratio counts positions, so it does not depend on the
machine. Every sequence must be in exactly one micro-batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from instar import seeds
from instar.components.update.batching import pack, split

BAR = 0.8
CASES = (("short answers", 512, 40, 0.6, 128, 8192), ("long answers", 1024, 700, 0.9, 4096, 32_768))
"""name, sequences, median tokens, sigma of log length, limit, positions per micro-batch"""


def run() -> list[dict[str, Any]]:
    """Return one row per distribution of lengths."""
    rows = []
    for name, num, median, sigma, limit, budget in CASES:
        rng = seeds.rng("benchmark", 0, "packing", name)
        widths = np.clip(rng.lognormal(np.log(median), sigma, num).astype(np.int64), 1, limit)
        order = np.arange(num)
        sorted_batches, packed = split(order, widths, budget), pack(order, widths, budget)
        assert sorted(np.concatenate(sorted_batches).tolist()) == order.tolist()
        assert sorted(np.concatenate([b for bins in packed for b in bins]).tolist()) == order.tolist()
        fixed = max(budget // limit, 1)
        plain = [order[i : i + fixed] for i in range(0, num, fixed)]
        real = int(widths.sum())
        share = {
            "arrival_order": real / sum(len(b) * int(widths[b].max()) for b in plain),
            "sorted": real / sum(len(b) * int(widths[b].max()) for b in sorted_batches),
            "packed": real / sum(len(bins) * max(int(widths[b].sum()) for b in bins) for bins in packed),
        }
        best = max(share["sorted"], share["packed"])
        rows.append({"row": name, **share, "bar": f">= {BAR}", "met": best >= BAR})
    return rows
