"""Log-probability of chosen tokens: chunked against the whole logits, peak memory and time, each in its own process.

The naive side is what trainers without a fused path do: logits, `log_softmax`, `gather`. Both sides compute one loss
from the same numbers; loss and gradients are compared before any ratio is reported. Peak is the growth of the
process's largest resident set over what it held before the call, the head's gradient of both sides included.
The rows of vocabulary 49,152 and width 576 are SmolLM2-135M's head. In bfloat16 the naive side turns its logits into
float32 before the softmax, as trainers do.
Shapes: M tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 3
CASES = (
    (1024, 32_768, 256, "float32", True),
    (1024, 32_768, 256, "float32", False),
    (4096, 32_768, 256, "float32", True),
    (1024, 49_152, 576, "float32", True),
    (2048, 49_152, 576, "bfloat16", True),
    (2048, 65_536, 256, "float32", True),
)
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
BAR = 1 / 3


def run() -> list[dict[str, Any]]:
    """Return one row per shape; `head_trained` says whether the output matrix gets a gradient."""
    return [compare(*case) for case in CASES]


def compare(tokens: int, vocabulary: int, hidden: int, dtype: str, trained: bool) -> dict[str, Any]:
    """Measure both sides in fresh processes, interleaved, and check that they agree."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[dict[str, float]]] = {"naive": [], "chunked": []}
        for _ in range(REPEATS):
            for side, results in found.items():
                sizes = [str(n) for n in (tokens, vocabulary, hidden)]
                words = [sys.executable, __file__, side, *sizes, dtype, str(int(trained)), f"{folder}/{side}.npz"]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout))
        error = difference(Path(folder) / "naive.npz", Path(folder) / "chunked.npz", TOLERANCE[dtype])
    ratio = {
        k: statistics.median(c[k] / n[k] for c, n in zip(found["chunked"], found["naive"], strict=True))
        for k in ("peak_bytes", "cpu_s", "wall_s")
    }
    return {
        "row": f"M {tokens}, V {vocabulary}, H {hidden}, {dtype}",
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


def difference(one: Path, two: Path, tolerance: float) -> float:
    """Return the largest difference relative to the largest entry; more than `tolerance` is an error."""
    a, b = np.load(one), np.load(two)
    assert set(a.files) == set(b.files)
    worst = max(float(np.abs(a[k] - b[k]).max() / max(np.abs(a[k]).max(), 1e-30)) for k in a.files)
    assert worst < tolerance, f"the two sides differ by {worst}"
    return worst


def child(side: str, tokens: int, vocabulary: int, width: int, dtype: str, trained: bool, out: str) -> None:
    """Run one side once, print its cost, write loss and gradients."""
    import torch

    from instar.kernels.logprob.dispatch import selected_logprob

    generator, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    hidden = torch.randn(tokens, width, generator=generator).to(kind).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).div_(width**0.5).to(kind).requires_grad_(trained)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    advantage = torch.randn(tokens, generator=generator)
    (hidden[:8] @ weight[:8].T).sum().backward()  # threads and libraries are loaded before the measurement
    hidden.grad = weight.grad = None
    forget_peak()
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    if side == "naive":
        logp = torch.log_softmax((hidden @ weight.T).float(), dim=-1).gather(1, targets[:, None]).squeeze(1)
    else:
        logp, _ = selected_logprob(hidden, weight, None, targets, entropy_grad=False)
    loss = -(logp * advantage).mean()
    loss.backward()
    cost = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**cost, "peak_bytes": memory("VmHWM") - before}))
    grads = {"hidden": hidden.grad, "weight": weight.grad}
    np.savez(out, loss=loss.detach().numpy(), **{k: g.float().numpy() for k, g in grads.items() if g is not None})


def forget_peak() -> None:
    """Start the high-water mark of this process again: making the inputs took more than what is left of it."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """Return a size from the process's status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    tokens, words, across = (int(v) for v in sys.argv[2:5])
    child(sys.argv[1], tokens, words, across, sys.argv[5], sys.argv[6] == "1", sys.argv[7])
