"""The Triton scan on a CUDA device: the interpreter's cases, sizes of real models, and parity with mamba-ssm."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from gpu import scan_cases, scan_world
from gpu.children import close, poisoned
from instar.kernels.selective_scan import dispatch, mamba_cuda, triton_scan

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", scan_cases.CASES)
def test_case(name: str) -> None:
    with poisoned():
        scan_cases.CASES[name]("cuda")


@pytest.mark.parametrize("sizes", [(64, 60, 256, 16), (3, 1025, 1000, 16), (2, 333, 130, 64), (70_000, 2, 3, 4)])
def test_larger(sizes: tuple[int, int, int, int]) -> None:
    args = scan_world.inputs(*sizes, device="cuda")
    with poisoned():
        scan_world.compare(args, 2e-5)


def test_offsets_beyond_32_bits() -> None:
    """The last sequence of 2.2e9 numbers equals the same sequence alone."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    batch, length, channels, states = 3, 180_000, 4096, 1
    g = torch.Generator("cuda").manual_seed(0)
    u = torch.randn(batch, length, channels, generator=g, device="cuda", dtype=torch.bfloat16)
    delta = torch.rand(batch, length, channels, generator=g, device="cuda").bfloat16()
    B, C = (torch.randn(batch, length, states, generator=g, device="cuda") for _ in range(2))
    A = -torch.rand(channels, states, generator=g, device="cuda")
    y, last = triton_scan.selective_scan(u, delta, A, B, C)
    y_alone, last_alone = triton_scan.selective_scan(u[2:], delta[2:], A, B[2:], C[2:])
    assert torch.equal(y[2:], y_alone) and torch.equal(last[2:], last_alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_with_mamba_ssm(dtype: torch.dtype) -> None:
    found = mamba_cuda.obstacle(torch.device("cuda", 0), dtype, False)
    if found:
        pytest.skip(f"mamba-ssm: {found}")
    args = {k: x for k, x in scan_world.inputs(4, 300, 96, 16, device="cuda", dtype=dtype).items() if k != "h0"}
    sides = []
    for op in (triton_scan.selective_scan, mamba_cuda.selective_scan):
        y, last = op(**args)
        sides.append([y, last, *torch.autograd.grad(y.float().sum(), list(args.values()))])
    for name, ours, theirs in zip(("y", "h_last", *args), *sides, strict=True):
        close(ours.cpu(), theirs.cpu(), 3e-5 if dtype == torch.float32 else 2e-2, name)


def test_the_dispatch_runs_it_with_a_carried_state() -> None:
    args = scan_world.inputs(2, 9, 8, 4, device="cuda")
    choice = dispatch.choose(args["u"].device, torch.float32, carries_state=True)
    assert choice.backend == "triton", choice.reason
    y, _ = dispatch.selective_scan(*args.values())
    assert torch.equal(y, triton_scan.selective_scan(**args)[0])
