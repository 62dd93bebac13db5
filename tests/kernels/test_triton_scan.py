"""The Triton scan without a GPU: every case under Triton's interpreter, and the kernels compiled for two devices."""

from __future__ import annotations

import pytest

from gpu.children import TRITON_PLATFORM, outcomes

if not TRITON_PLATFORM:
    pytest.skip("Triton has wheels for Linux on x86-64 only", allow_module_level=True)

import torch

from gpu import compile_cases, scan_cases, scan_world
from instar.errors import ConfigError
from instar.kernels.selective_scan import dispatch, triton_scan, triton_scan_kernels

NIGHTLY = ("same bits", "bfloat16", "without D", "without h0", "gradient of y alone")
"""Cases that take long in the interpreter and are parts of others, or need a device to fail: `same bits` counts on races."""
FAST = [name for name in scan_cases.CASES if name not in NIGHTLY]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes("scan_cases", tmp_path_factory.mktemp("triton"), FAST, interpret=True)


@pytest.fixture(scope="module")
def interpreted_at_night(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes("scan_cases", tmp_path_factory.mktemp("triton"), NIGHTLY, interpret=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes("compile_cases:SCAN_CASES", tmp_path_factory.mktemp("triton"), interpret=False)


@pytest.mark.parametrize("name", FAST)
def test_interpreted(name: str, interpreted: dict[str, str]) -> None:
    assert not interpreted[name], interpreted[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", NIGHTLY)
def test_interpreted_at_night(name: str, interpreted_at_night: dict[str, str]) -> None:
    assert not interpreted_at_night[name], interpreted_at_night[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", compile_cases.SCAN_CASES)
def test_compiles(name: str, compiled: dict[str, str]) -> None:
    assert not compiled[name], compiled[name]


@pytest.mark.skipif(triton_scan_kernels.INTERPRETED, reason="this process interprets Triton")
def test_cpu_tensors_are_refused() -> None:
    args = scan_world.inputs(1, 2, 3, 4)
    with pytest.raises(ConfigError, match="CUDA"):
        triton_scan.selective_scan(**args)
    with pytest.raises(ConfigError, match="CUDA"):
        dispatch.selective_scan(*args.values(), backend="triton")


def test_a_tile_fits_registers_whatever_the_sizes() -> None:
    assert triton_scan.blocks(256, 16) == (32, 16)
    assert triton_scan.blocks(3, 1) == (4, 1)
    assert triton_scan.blocks(4096, 256) == (2, 256)
    assert triton_scan.blocks(5000, 1) == (128, 1)
    assert triton_scan.blocks(7, 5000) == (1, 8192)


def test_importing_the_dispatch_does_not_import_triton() -> None:
    """Machines without Triton run everything else."""
    import subprocess
    import sys

    code = (
        "import sys, instar.kernels.selective_scan.dispatch, instar.kernels.logprob.dispatch as d;"
        "d.choose(3, 9); assert 'triton' not in sys.modules; assert d.choose(3, 9).backend == 'chunked'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.cuda.is_available() or dispatch.choose(torch.device("cpu"), torch.float32).backend != "triton"
