"""The Triton kernels on a GPU against other ways to the same numbers: `python benchmarks/gpu_kernels.py --out FILE.json`.

Selective scan: ours, mamba-ssm where its kernel is there, and our sliced torch form. Selected log-probability: ours, our
chunked form, the naive one (whole logits) and Liger's fused cross-entropy where it can be imported. All sides of a row
run interleaved in one process on the same tensors; results and gradients are compared before any time is taken.

Beside the times stand the peak of allocated device memory over what a call found, and the share of the floor: the time
that the bytes which must be moved, or the multiplications which must be done, take at the device's published peak. Bytes
and operations are counted in `gpu_sides.py`; an unlisted device has a floor of 0. Without a CUDA device the exit code is 77.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from gpu_sides import Call, logprob_sides, logprob_work, scan_bytes, scan_sides

PEAKS = (
    ("B200", 8.0e12, 2.25e15),
    ("GH200", 4.0e12, 989e12),
    ("H200", 4.8e12, 989e12),
    ("H100 NVL", 3.94e12, 835e12),
    ("H100 PCIe", 2.04e12, 756e12),
    ("H100", 3.35e12, 989e12),
    ("A100-SXM4-80GB", 2.04e12, 312e12),
    ("A100 80GB PCIe", 1.94e12, 312e12),
    ("A100", 1.56e12, 312e12),
    ("L40S", 0.864e12, 362e12),
    ("L4", 0.3e12, 121e12),
    ("A10", 0.6e12, 125e12),
    ("RTX 4090", 1.01e12, 165e12),
    ("T4", 0.32e12, 65e12),
)
"""Part of a device's name, bytes of memory and dense half-type operations in a second; vendors' data sheets. First match."""
SCAN_CASES = ((64, 60, 256, 16), (64, 60, 1536, 16), (8, 2048, 1536, 16), (1, 16_384, 1536, 16))
"""B, L, E, N: the embedded and the released Decision Mamba, then long sequences."""
LOGPROB_CASES = (
    (4096, 2048, 151_936, True),
    (4096, 2048, 151_936, False),
    (16_384, 4096, 32_000, True),
    (512, 896, 151_936, True),
)
"""M, H, V, and whether the head is trained."""
REPEATS, WARM = 20, 3


def peaks(name: str) -> tuple[float, float]:
    """Return bytes and half-type operations in a second of a device; infinite for one that is not listed."""
    return next(((b, f) for part, b, f in PEAKS if part in name), (float("inf"), float("inf")))


def run() -> list[dict[str, Any]]:
    """Return the rows of both kernels."""
    return scan_rows() + logprob_rows()


def scan_rows() -> list[dict[str, Any]]:
    """Return a row per shape and type."""
    rows = []
    for case in SCAN_CASES:
        for dtype in (torch.float32, torch.bfloat16):
            sides = scan_sides(*case, dtype, "cuda")
            work = {k: {"bytes": float(x)} for k, x in scan_bytes(*case, dtype.itemsize).items()}
            title = "scan, " + ", ".join(f"{k} {x}" for k, x in zip("BLEN", case, strict=True))
            rows.append({"row": f"{title}, {dtype}", **measure(sides, work, 2e-4 if dtype == torch.float32 else 5e-2)})
    return rows


def logprob_rows() -> list[dict[str, Any]]:
    """Return a row per shape, in bfloat16; the loss is the mean of -log p, which all sides can do."""
    rows = []
    for m, h, v, trained in LOGPROB_CASES:
        sides = logprob_sides(m, h, v, trained, "cuda")
        title = f"log-prob, M {m}, H {h}, V {v}, head {'trained' if trained else 'frozen'}, bfloat16"
        rows.append({"row": title, **measure(sides, logprob_work(m, h, v, trained, 2), 5e-2)})
    return rows


def measure(sides: dict[str, dict[str, Call]], work: dict[str, dict[str, float]], tolerance: float) -> dict[str, Any]:
    """Return milliseconds, peak bytes, share of the floor and ratios to the first side, for each direction."""
    bandwidth, speed = peaks(torch.cuda.get_device_name())
    found: dict[str, Any] = {"largest_relative_difference": agree(sides, tolerance)}
    first = next(iter(sides))
    for direction, counted in work.items():
        times = interleaved({name: side[direction] for name, side in sides.items()})
        floor = max(counted["bytes"] / bandwidth, counted.get("operations", 0.0) / speed)
        found[direction] = {
            "floor_ms": round(1e3 * floor, 4),
            "ms": {name: round(1e3 * statistics.median(t), 4) for name, t in times.items()},
            "share_of_floor": {name: round(floor / statistics.median(t), 3) for name, t in times.items()},
            "peak_mib": {name: round(peak_bytes(side[direction]) / 2**20, 1) for name, side in sides.items()},
            f"times_slower_than_{first}": {
                name: round(statistics.median(a / b for a, b in zip(t, times[first], strict=True)), 3)
                for name, t in times.items()
            },
        }
    return found


def agree(sides: dict[str, dict[str, Call]], tolerance: float) -> float:
    """Return the largest difference to the first side, relative to the largest entry; above `tolerance` is an error."""
    worst = 0.0
    for direction in ("forward", "both"):
        true, *others = (side[direction]() for side in sides.values())
        for other in others:
            for a, b in zip(true, other, strict=True):
                worst = max(worst, float((a.float() - b.float()).abs().max() / b.float().abs().max()))
    assert worst <= tolerance, f"the sides differ by {worst}"
    return worst


def interleaved(calls: dict[str, Call]) -> dict[str, list[float]]:
    """Return device seconds of REPEATS rounds over all sides, after WARM rounds."""
    out: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM + REPEATS):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if turn >= WARM:
                out[name].append(begin.elapsed_time(end) / 1e3)
    return out


def peak_bytes(call: Call) -> int:
    """Return by how much a call raises the allocated device memory at its highest, its results included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def main() -> int:
    """Measure, write JSON, print a line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scan", "logprob"), help="one of the two kernels")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: gpu_kernels.py measures kernels on a GPU and has nothing to run here", file=sys.stderr)
        return 77
    from run import machine

    rows = (scan_rows() if args.only != "logprob" else []) + (logprob_rows() if args.only != "scan" else [])
    gpu = {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "driver_memory": torch.cuda.mem_get_info()[1],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine() | gpu, "rows": rows}, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
