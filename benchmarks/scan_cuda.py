"""Selective scan on a GPU, forward and backward: time of each version, and its share of the time to move the bytes once.

`python benchmarks/selective_scan.py --device cuda --out FILE` runs it. The floor is the bytes of the op over the speed of a
large copy on the same device; a version that is not installed is a row that says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from selective_scan import inputs
from torch import Tensor

from instar.kernels.selective_scan import dispatch

CASES = ((64, 60, 256, 16), (16, 2048, 1536, 16))
"""B, L, E, N"""
REPEATS = 20


def run_cuda() -> list[dict[str, Any]]:
    """Return a row per shape, type and version on the GPU: milliseconds and share of the memory floor."""
    device, rows = torch.device("cuda", torch.cuda.current_device()), []
    speed = copy_speed(device)
    for shape in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            leaves, up = inputs(*shape, dtype, "cuda")
            floor = bytes_moved(*shape, up.element_size()) / speed
            for backend in ("triton", "mamba_ssm", "sliced"):
                row = {
                    "row": f"{backend}, {list(shape)}, {dtype}",
                    "floor_ms": 1e3 * floor,
                    "copy_gb_per_s": speed / 1e9,
                }
                try:
                    seconds = _seconds(leaves, up, backend)
                except Exception as error:  # a version that is not installed is a row that says so
                    rows.append({**row, "error": str(error)})
                    continue
                rows.append({**row, "ms": 1e3 * seconds, "share_of_floor": floor / seconds})
    return rows


def bytes_moved(b: int, length: int, e: int, n: int, size: int) -> int:
    """Return the bytes of forward and backward when every array crosses the memory bus once per direction.

    Forward reads u, delta, B, C and writes y; backward reads these four and dy and writes their four gradients. A, D and
    states do not count.
    """
    wide, narrow = b * length * e * size, b * length * n * size
    return (3 * wide + 2 * narrow) + (5 * wide + 4 * narrow)


def copy_speed(device: torch.device) -> float:
    """Return bytes per second, read and written, of copying 1 GiB on the device."""
    source = torch.ones(2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / _median_seconds(lambda: target.copy_(source))


def _seconds(leaves: list[Tensor], up: Tensor, backend: dispatch.Backend) -> float:
    def call() -> None:
        y, _ = dispatch.selective_scan(*leaves, backend=backend)
        torch.autograd.grad(y, leaves, up)

    return _median_seconds(call)


def _median_seconds(call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)
