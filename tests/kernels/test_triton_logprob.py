"""The Triton log-probability without a GPU: its cases under the interpreter, the kernels compiled, and the dispatch."""

from __future__ import annotations

import pytest

from gpu.children import TRITON_PLATFORM, outcomes
from instar.errors import ConfigError
from instar.kernels.logprob import dispatch

if not TRITON_PLATFORM:
    pytest.skip("Triton has wheels for Linux on x86-64 only", allow_module_level=True)

import torch

from gpu import compile_cases, logprob_cases, logprob_world
from instar.kernels.logprob import triton_logprob, triton_logprob_kernels

ON_CPU = pytest.mark.skipif(triton_logprob_kernels.INTERPRETED, reason="this process interprets Triton")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes("logprob_cases", tmp_path_factory.mktemp("triton"), interpret=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes("compile_cases:LOGPROB_CASES", tmp_path_factory.mktemp("triton"), interpret=False)


@pytest.mark.parametrize("name", logprob_cases.CASES)
def test_interpreted(name: str, interpreted: dict[str, str]) -> None:
    assert not interpreted[name], interpreted[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", compile_cases.LOGPROB_CASES)
def test_compiles(name: str, compiled: dict[str, str]) -> None:
    assert not compiled[name], compiled[name]


@ON_CPU
def test_a_named_backend_that_cannot_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not on cpu"):
        dispatch.choose(3, 9, backend="triton")
    with pytest.raises(ConfigError, match="not on cpu"):
        dispatch.selected_logprob(*logprob_world.inputs(3, 4, 9, "cpu"), backend="triton")
    with pytest.raises(ConfigError, match="float32, bfloat16 or float16"):
        triton_logprob.selected_logprob(*logprob_world.inputs(3, 4, 9, "cpu"), 128)


def test_cuda_takes_triton_and_says_so() -> None:
    choice = dispatch.choose(4096, 150_000, device="cuda", itemsize=2)
    assert choice.backend == "triton" and "CUDA" in choice.reason
    assert choice.chunk == 4096 and choice.peak_bytes == 4096 * 4096 * 2 == dispatch.SLICE_BYTES
    assert dispatch.choose(4096, 150_000, device="cuda", backend="chunked").backend == "chunked"
    double = dispatch.choose(4096, 150_000, device="cuda", itemsize=8)
    assert double.backend == "chunked" and "float64" in double.reason


def test_slices_never_pass_their_budget_but_for_the_smallest() -> None:
    for tokens, vocabulary, chunk in ((1, 50_000, 0), (70_000, 50_000, 0), (10, 20, 0), (512, 32_000, 64), (0, 9, 0)):
        choice = dispatch.choose(tokens, vocabulary, chunk=chunk, device="cuda", itemsize=2)
        budget = 2 * chunk * vocabulary if chunk else dispatch.SLICE_BYTES
        smallest = 2 * max(tokens, 1) * min(vocabulary, dispatch.SLICE_COLUMNS)
        assert choice.peak_bytes <= max(budget, smallest) and 1 <= choice.chunk <= vocabulary


def test_without_triton_cuda_takes_the_chunked_form_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(dispatch, "_triton", missing)
    choice = dispatch.choose(100, 50_000, device="cuda")
    assert choice.backend == "chunked" and "No module named 'triton'" in choice.reason
    with pytest.raises(ConfigError, match="No module named 'triton'"):
        dispatch.choose(100, 50_000, device="cuda", backend="triton")


def test_peak_counts_softmax_type_for_half_inputs() -> None:
    """The chunked form's buffers are float32 whatever the inputs are."""
    assert dispatch.choose(64, 1000, itemsize=2).peak_bytes == dispatch.choose(64, 1000).peak_bytes
    assert torch.finfo(torch.float32).bits // 8 * 2 * 64 * 1000 == dispatch.choose(64, 1000).peak_bytes
