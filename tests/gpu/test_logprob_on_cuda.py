"""The Triton log-probability on a CUDA device: the interpreter's cases, sizes of real heads, and its memory."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from gpu import logprob_cases, logprob_world
from gpu.children import close, poisoned
from instar.kernels.logprob import chunked, dispatch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", logprob_cases.CASES)
def test_case(name: str) -> None:
    with poisoned():
        logprob_cases.CASES[name]("cuda")


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_head(dtype: torch.dtype, frozen: bool) -> None:
    """A vocabulary of 32k words: as exact as the chunked form is, both against float64 on the device."""
    case = logprob_world.inputs(700, 512, 32_003, "cuda", bias=False, frozen=frozen, dtype=dtype)
    exact = tuple(None if x is None else x.detach().double().requires_grad_(x.requires_grad) for x in case[:3])
    sides = []
    with poisoned():
        for op in (
            lambda: dispatch.selected_logprob(*case, backend="triton"),
            lambda: chunked.selected_logprob(*case, 64),
            lambda: chunked.selected_logprob(*exact, case[3], 64),  # type: ignore[arg-type]
        ):
            values = op()
            leaves = case if len(sides) < 2 else (*exact, case[3])
            sides.append([*values, *logprob_world.gradients(leaves, values)])  # type: ignore[arg-type]
    floor = 1e-5 if dtype == torch.float32 else 5e-3
    for name, ours, peer, true in zip(("logp", "entropy", "dhidden", "dweight"), *sides, strict=False):
        scale = float(true.abs().max())
        reached = float((peer.double() - true).abs().max()) / scale
        close(ours, true, 2 * reached + floor, name)


def test_peak_memory_is_what_the_choice_says() -> None:
    """A frozen head of 128k words, 4096 tokens: the peak stays near one slice where the logits would take 2 GiB."""
    case = logprob_world.inputs(4096, 256, 128_000, "cuda", bias=False, frozen=True, dtype=torch.bfloat16)
    choice = dispatch.choose(4096, 128_000, itemsize=2, device="cuda")
    peak = 0
    for _ in range(2):  # the first round loads kernels and work spaces
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        logp, entropy = dispatch.selected_logprob(*case)
        (logp.sum() + entropy.sum()).backward()
        peak = torch.cuda.max_memory_allocated() - before
    hidden_sized = 4096 * 256 * 4
    assert peak <= choice.peak_bytes + 8 * hidden_sized, (peak, choice)
