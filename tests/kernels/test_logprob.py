"""Selected log-probability and entropy: the chunked form against the definition, in values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from instar.kernels.logprob import chunked, dispatch, reference


def _case(
    m: int, h: int, v: int, dtype: torch.dtype, bias: bool, frozen: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    g = torch.Generator().manual_seed(m * 1000 + v)
    hidden = torch.randn(m, h, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(v, h, generator=g, dtype=torch.float64).to(dtype).requires_grad_(not frozen)
    b = torch.randn(v, generator=g, dtype=torch.float64).to(dtype).requires_grad_(not frozen) if bias else None
    return hidden, weight, b, torch.randint(0, v, (m,), generator=g)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_gradcheck(chunk: int, bias: bool, frozen: bool) -> None:
    hidden, weight, b, targets = _case(7, 5, 11, torch.float64, bias, frozen)

    def op(h: Tensor, w: Tensor, *c: Tensor) -> tuple[Tensor, Tensor]:
        return chunked.selected_logprob(h, w, c[0] if c else None, targets, chunk)

    assert torch.autograd.gradcheck(op, [t for t in (hidden, weight, b) if t is not None])


@pytest.mark.parametrize(("m", "h", "v"), [(1, 1, 2), (63, 60, 257), (5, 17, 1031), (64, 8, 20)])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_equals_reference(m: int, h: int, v: int, frozen: bool) -> None:
    hidden, weight, b, targets = _case(m, h, v, torch.float32, True, frozen)
    g = torch.Generator().manual_seed(1)
    up_logp, up_entropy = torch.randn(m, generator=g), torch.randn(m, generator=g)
    results = []
    for op in (
        lambda: reference.selected_logprob(hidden, weight, b, targets),
        lambda: chunked.selected_logprob(hidden, weight, b, targets, 4),
    ):
        logp, entropy = op()
        leaves = [t for t in (hidden, weight, b) if t is not None and t.requires_grad]
        grads = torch.autograd.grad((logp * up_logp + entropy * up_entropy).sum(), leaves)
        results.append([logp, entropy, *grads])
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_bfloat16_gradients_accumulate_in_float32() -> None:
    hidden, weight, _, targets = _case(512, 16, 33, torch.bfloat16, False, False)
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    logp, _ = chunked.selected_logprob(hidden, weight, None, targets, 8, False)
    logp.sum().backward()
    reference.selected_logprob(exact_hidden, exact_weight, None, targets)[0].sum().backward()
    assert weight.grad is not None and exact_weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    error = (weight.grad.double() - exact_weight.grad).norm() / exact_weight.grad.norm()
    assert error < 0.01


def test_only_the_logprob_may_carry_gradient() -> None:
    hidden, weight, _, targets = _case(6, 4, 9, torch.float64, False, False)
    logp, entropy = chunked.selected_logprob(hidden, weight, None, targets, 4, False)
    assert logp.requires_grad and not entropy.requires_grad
    expected = torch.autograd.grad(reference.selected_logprob(hidden, weight, None, targets)[0].sum(), hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(logp.sum(), hidden)[0], expected)


def test_no_tokens() -> None:
    hidden, weight, _, targets = _case(0, 4, 9, torch.float32, False, False)
    logp, entropy = dispatch.selected_logprob(hidden, weight, None, targets)
    assert logp.shape == entropy.shape == (0,)
    logp.sum().backward()
    assert hidden.grad is not None and weight.grad is not None and not weight.grad.any()


class _Sizes(TorchDispatchMode):
    """Record the largest tensor any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return out


@pytest.mark.parametrize(("backend", "whole"), [("chunked", False), ("reference", True)])
def test_the_whole_logits_never_exist(backend: dispatch.Backend, whole: bool) -> None:
    m, h, v, chunk = 256, 8, 512, 16
    hidden, weight, _, targets = _case(m, h, v, torch.float32, False, False)
    with _Sizes() as sizes:
        logp, entropy = dispatch.selected_logprob(hidden, weight, None, targets, chunk=chunk, backend=backend)
        (logp + entropy).sum().backward()
    assert sizes.largest == m * v if whole else 0.9 * chunk * v < sizes.largest <= chunk * v


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "chunk", "expected"),
    [(1024, 49_152, 85, (1024, 4080)), (8192, 49_152, 85, (2043, 2044)), (3, 20, 5, (3, 20)), (0, 9, 4, (1, 9))],
)
def test_tiles_fill_the_budget(tokens: int, vocabulary: int, chunk: int, expected: tuple[int, int]) -> None:
    rows, columns = chunked.tile(tokens, vocabulary, chunk)
    assert (rows, columns) == expected and rows * columns <= chunk * vocabulary


@pytest.mark.parametrize("entropy_grad", [False, True])
def test_tiles_of_large_logits_agree_with_the_reference(entropy_grad: bool) -> None:
    """Maxima that grow and shrink from tile to tile, with logits up to 80, where a plain sum of exponentials overflows."""
    hidden, weight, b, targets = _case(40, 8, 300, torch.float32, True, False)
    with torch.no_grad():
        hidden.mul_(1 if entropy_grad else 8)  # autograd's own entropy has no gradient where a probability is 0
    results = []
    for op in (
        lambda: reference.selected_logprob(hidden, weight, b, targets),
        lambda: chunked.selected_logprob(hidden, weight, b, targets, 2, entropy_grad),
    ):
        logp, entropy = op()
        total = (logp * torch.linspace(-1, 1, 40)).sum() + (entropy.sum() if entropy_grad else 0)
        results.append([logp, entropy, *torch.autograd.grad(total, [hidden, weight])])
    assert float(results[0][0].detach().min()) < (-8 if entropy_grad else -60)
    for ours, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_dispatch_says_what_runs_and_why() -> None:
    automatic = dispatch.choose(10_000, 50_000)
    assert automatic.backend == "chunked" and "grow" in automatic.reason
    assert automatic.chunk == dispatch.CHUNK_LOGITS // 50_000
    assert automatic.peak_bytes <= 2 * dispatch.CHUNK_LOGITS * 4
    named = dispatch.choose(10_000, 50_000, backend="reference")
    assert named.backend == "reference" and named.peak_bytes > 3 * automatic.peak_bytes
    assert dispatch.choose(3, 20).chunk == 3
