"""Log-probability of chosen tokens: chunked against the whole logits, peak memory and time, each in its own process.

The naive side is what trainers without a fused path do: logits, `log_softmax`, `gather`. Both sides compute one loss
from the same numbers; loss and gradients are compared before any ratio is reported. Peak is the growth of the
process's largest resident set over what it held before the call, the head's gradient of both sides included.
Shapes: M tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, REPEATS = 256, 3
CASES = ((1024, 32_768, True), (1024, 32_768, False), (4096, 32_768, True), (2048, 65_536, True))
BAR = 1 / 3


def run() -> list[dict[str, Any]]:
    """Return one row per shape; `head_trained` says whether the output matrix gets a gradient."""
    return [compare(*case) for case in CASES]


def compare(tokens: int, vocabulary: int, trained: bool) -> dict[str, Any]:
    """Measure both sides in fresh processes, interleaved, and check that they agree."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[dict[str, float]]] = {"naive": [], "chunked": []}
        for _ in range(REPEATS):
            for side, results in found.items():
                words = [side, str(tokens), str(vocabulary), str(int(trained)), f"{folder}/{side}.npz"]
                done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout))
        error = difference(Path(folder) / "naive.npz", Path(folder) / "chunked.npz")
    ratio = {k: statistics.median(c[k] / n[k] for c, n in zip(found["chunked"], found["naive"], strict=True))
             for k in ("peak_bytes", "cpu_s", "wall_s")}  # fmt: skip
    return {
        "row": f"M {tokens}, V {vocabulary}, H {HIDDEN}",
        "head_trained": trained,
        "naive_peak_mib": round(statistics.median(r["peak_bytes"] for r in found["naive"]) / 2**20, 1),
        "chunked_peak_mib": round(statistics.median(r["peak_bytes"] for r in found["chunked"]) / 2**20, 1),
        "ratio_peak": ratio["peak_bytes"],
        "ratio_cpu": ratio["cpu_s"],
        "ratio_wall": ratio["wall_s"],
        "largest_relative_gradient_error": error,
        "bar": "peak <= 1/3, same gradients",
        "met": ratio["peak_bytes"] <= BAR,
    }


def difference(one: Path, two: Path) -> float:
    """Return the largest difference relative to the largest entry; more than 1e-4 is an error."""
    a, b = np.load(one), np.load(two)
    assert set(a.files) == set(b.files)
    worst = max(float(np.abs(a[k] - b[k]).max() / max(np.abs(a[k]).max(), 1e-30)) for k in a.files)
    assert worst < 1e-4, f"the two sides differ by {worst}"
    return worst


def child(side: str, tokens: int, vocabulary: int, trained: bool, out: str) -> None:
    """Run one side once, print its cost, write loss and gradients."""
    import torch

    from instar.kernels.logprob.dispatch import selected_logprob

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, HIDDEN, generator=generator) / HIDDEN**0.5).requires_grad_(trained)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    advantage = torch.randn(tokens, generator=generator)
    (hidden[:8] @ weight[:8].T).sum().backward()  # threads and libraries are loaded before the measurement
    hidden.grad = weight.grad = None
    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    if side == "naive":
        logp = torch.log_softmax(hidden @ weight.T, dim=-1).gather(1, targets[:, None]).squeeze(1)
    else:
        logp, _ = selected_logprob(hidden, weight, None, targets, entropy_grad=False)
    loss = -(logp * advantage).mean()
    loss.backward()
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**cost, "peak_bytes": peak - before}))
    grads = {"hidden": hidden.grad, "weight": weight.grad}
    np.savez(out, loss=loss.detach().numpy(), **{k: g.numpy() for k, g in grads.items() if g is not None})


def resident() -> int:
    """Return the resident set in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", sys.argv[5])
