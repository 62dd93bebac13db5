"""What `gpu_kernels.py` compares: the sides of each kernel as calls on shared tensors, and the work that none can avoid."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from instar.kernels.logprob import dispatch as logprob
from instar.kernels.selective_scan import dispatch as scan
from instar.kernels.selective_scan import mamba_cuda

Call = Callable[[], list[Tensor]]


def scan_bytes(b: int, length: int, e: int, n: int, size: int) -> dict[str, int]:
    """Return the bytes that must move: each of u, delta, B, C, y once; in backward also dy and four gradients."""
    wide, narrow = b * length * e * size, b * length * n * size
    forward = 3 * wide + 2 * narrow + e * n * 4 + b * e * n * 4
    return {"forward": forward, "both": forward + 5 * wide + 4 * narrow + 2 * e * n * 4}


def logprob_work(m: int, h: int, v: int, trained: bool, size: int) -> dict[str, dict[str, float]]:
    """Return bytes and operations that must be: hidden states and head read, their gradients written; no logits."""
    read = (m * h + v * h) * size
    written = (m * h + (v * h if trained else 0)) * size
    products = 2.0 * m * h * v
    return {
        "forward": {"bytes": read, "operations": products},
        "both": {"bytes": 2 * read + written, "operations": products * (3 if trained else 2)},
    }


def scan_sides(b: int, length: int, e: int, n: int, dtype: torch.dtype, device: str) -> dict[str, dict[str, Call]]:
    """Return for each side the calls `forward` (no graph) and `both`; ours is first."""
    g = torch.Generator().manual_seed(0)
    u, delta, up = (torch.randn(b, length, e, generator=g).to(device, dtype) for _ in range(3))
    delta = torch.nn.functional.softplus(delta.float() - 3).to(dtype)
    B, C = (torch.randn(b, length, n, generator=g).to(device, dtype) for _ in range(2))
    A = -torch.arange(1, n + 1, dtype=torch.float32, device=device).repeat(e, 1)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, torch.ones(e, device=device))]
    obstacle = mamba_cuda.obstacle(u.device, dtype, False)
    names: list[scan.Backend] = ["triton", *([] if obstacle else ["mamba_ssm"]), "sliced"]  # type: ignore[list-item]

    def calls(backend: scan.Backend) -> dict[str, Call]:
        def forward() -> list[Tensor]:
            with torch.no_grad():
                return list(scan.selective_scan(*leaves, backend=backend))

        def both() -> list[Tensor]:
            y, _ = scan.selective_scan(*leaves, backend=backend)
            return [y.detach(), *torch.autograd.grad(y, leaves, up)]

        return {"forward": forward, "both": both}

    return {name: calls(name) for name in names}


def logprob_sides(m: int, h: int, v: int, trained: bool, device: str) -> dict[str, dict[str, Call]]:
    """Return for each side the calls `forward` (no graph) and `both`; ours is first. Each gives the loss first."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(m, h, generator=g).to(device, torch.bfloat16).requires_grad_()
    weight = (torch.randn(v, h, generator=g) / h**0.5).to(device, torch.bfloat16).requires_grad_(trained)
    targets = torch.randint(v, (m,), generator=g).to(device)
    leaves = [hidden, weight] if trained else [hidden]

    def ours(backend: logprob.Backend) -> Callable[[], Tensor]:
        return lambda: (
            -logprob.selected_logprob(hidden, weight, None, targets, backend=backend, entropy_grad=False)[0].mean()
        )

    losses: dict[str, Callable[[], Tensor]] = {
        "triton": ours("triton"),
        "chunked": ours("chunked"),
        "naive": lambda: torch.nn.functional.cross_entropy((hidden @ weight.T).float(), targets),
    }
    try:
        fused = importlib.import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()
        losses["liger"] = lambda: fused(weight, hidden, targets)
    except ImportError:
        pass

    def calls(loss: Callable[[], Tensor]) -> dict[str, Call]:
        def forward() -> list[Tensor]:
            with torch.no_grad():
                return [loss()]

        def both() -> list[Tensor]:
            value = loss()
            return [value.detach(), *torch.autograd.grad(value, leaves)]

        return {"forward": forward, "both": both}

    return {name: calls(loss) for name, loss in losses.items()}
