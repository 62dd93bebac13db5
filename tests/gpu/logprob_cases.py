"""What the Triton log-probability must do, on any device that can run it: functions of the device's name.

Exact values come from the reference in float64 on the very numbers the kernel reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpu.children import close
from gpu.logprob_world import SLICE, compare, exact, gradients, inputs
from instar.errors import ConfigError
from instar.kernels.logprob import chunked, dispatch, reference
from instar.kernels.logprob.triton_logprob import TILE_FLOAT32, parts, selected_logprob


def shape(
    device: str, m: int, h: int, v: int, *, bias: bool = True, frozen: bool = False, tolerance: float = 1e-5
) -> None:
    compare(inputs(m, h, v, device, bias=bias, frozen=frozen), tolerance)


def borders(device: str) -> None:
    """Targets on both sides of every border of tiles and slices, and the last word of a vocabulary that fills none."""
    v = 5 * SLICE + 37
    hidden, weight, bias, _ = inputs(23, 9, v, device)
    edges = [x + d for x in range(0, v, TILE_FLOAT32["TILE_V"]) for d in (-1, 0) if x + d >= 0]
    assert len(edges) == 21
    compare((hidden, weight, bias, torch.tensor([*edges, v - 1, 5], device=device)), 1e-5)


def many_parts(device: str) -> None:
    """One token and a long vocabulary: the parts, each of several tiles, are put together right."""
    settings = {"TILE_M": TILE_FLOAT32["TILE_M"], "TILE_V": TILE_FLOAT32["TILE_V"]}
    count, each = parts(1, 3000, settings)
    assert (count, each) == (12, 4)
    shape(device, 1, 5, 3000, tolerance=2e-5)
    for tokens, vocabulary in ((1, 1), (5000, 150_000), (1, 10**6), (10**6, 32_000)):
        count, each = parts(tokens, vocabulary, settings)
        tiles = -(-vocabulary // settings["TILE_V"])
        assert (count - 1) * each < tiles <= count * each, "every tile in one part, no part empty"


def one_gradient(device: str, use_logp: bool, frozen: bool) -> None:
    compare(inputs(9, 6, 150, device, frozen=frozen), 1e-5, use_logp=use_logp, use_entropy=not use_logp)


def constant_entropy(device: str) -> None:
    """With entropy_grad off the entropy carries no gradient and the rest is as before."""
    case = inputs(9, 6, 150, device)
    logp, entropy = selected_logprob(*case, SLICE, False)
    assert logp.requires_grad and not entropy.requires_grad
    both = selected_logprob(*case, SLICE)
    assert torch.equal(entropy, both[1]) and torch.equal(logp, both[0])
    for a, b in zip(gradients(case, (logp, entropy)), gradients(case, both, use_entropy=False), strict=True):
        assert torch.equal(a, b)


def half(device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Half types: logits are rounded as the model's own head rounds them, everything else runs in float32."""
    case = inputs(40, 70, 300, device, dtype=dtype)
    compare(case, tolerance)
    rounded = reference.selected_logprob(*(None if x is None else x.detach().cpu() for x in case))  # type: ignore[arg-type]
    unrounded = reference.selected_logprob(*exact(case))
    for ours, with_rounding, without in zip(selected_logprob(*case, SLICE), rounded, unrounded, strict=True):
        gap, effect = (float((x.detach() - with_rounding).abs().mean()) for x in (ours.cpu(), without))
        assert gap < 0.2 * effect, (gap, effect)


def far_apart(device: str) -> None:
    """Logits 600 apart, rising or falling: no exponential overflows while the largest still rises, none gives NaN at 0."""
    hidden, weight, _, targets = inputs(4, 3, 400, device, bias=False)
    ramp = torch.linspace(-300, 300, 400, device=device).requires_grad_()
    compare((hidden, weight, ramp, targets), 1e-4, least=1.0)
    falling = ramp.detach().flip(0).requires_grad_()
    compare((hidden, weight, falling, targets), 1e-4, least=1.0)


def excluded_words(device: str) -> None:
    """A bias of -inf takes words out: probability 0, no part in the entropy, no NaN."""
    hidden, weight, bias, _ = inputs(6, 4, 200, device)
    assert bias is not None
    out = torch.zeros(200, dtype=torch.bool, device=device)
    out[:130] = True
    out[190:] = True
    masked = bias.detach().masked_fill(out, float("-inf")).requires_grad_()
    targets = torch.tensor([130, 131, 150, 160, 188, 189], device=device)
    truth = exact((hidden, weight, masked, targets))
    ours, theirs = selected_logprob(hidden, weight, masked, targets, SLICE), reference.selected_logprob(*truth)
    close(ours[0].cpu(), theirs[0], 1e-5, "logp")
    close(ours[1].cpu(), theirs[1], 1e-5, "entropy")
    assert truth[2] is not None
    small = (truth[0], truth[1][130:190], truth[2][130:190], targets.cpu() - 130)
    expected = gradients(truth, reference.selected_logprob(*small))  # the words left are the whole vocabulary
    for a, b in zip(gradients((hidden, weight, masked, targets), ours), expected, strict=True):
        close(a.cpu(), b, 1e-5, "gradient")


def wrong_target(device: str) -> None:
    """A target that is no word gives NaN for its own token and nothing else: a later check stops the update."""
    hidden, weight, bias, targets = inputs(5, 4, 20, device)
    broken = targets.clone()
    broken[1], broken[3] = 20, -100
    logp, entropy = selected_logprob(hidden, weight, bias, broken, SLICE)
    assert logp.isnan().tolist() == [False, True, False, True, False] and not entropy.isnan().any()
    kept = selected_logprob(hidden, weight, bias, targets, SLICE)[0]
    assert torch.equal(logp[::2], kept[::2])


def broken_weights(device: str) -> None:
    """A NaN in the head reaches every log-probability and entropy."""
    hidden, weight, bias, targets = inputs(5, 4, 200, device)
    with torch.no_grad():
        weight[150, 2] = float("nan")
    logp, entropy = selected_logprob(hidden, weight, bias, targets, SLICE)
    assert logp.isnan().all() and entropy.isnan().all()


def strided(device: str) -> None:
    """Columns of a larger tensor as hidden states, a transposed head, expanded gradients."""
    hidden, weight, bias, targets = inputs(7, 6, 140, device)
    wide = torch.cat([hidden.detach(), hidden.detach()], dim=1).requires_grad_()
    turned = weight.detach().t().contiguous().t().requires_grad_()
    logp, entropy = selected_logprob(wide[:, 6:], turned, bias, targets, SLICE)
    expected = selected_logprob(hidden, weight, bias, targets, SLICE)
    assert torch.equal(logp, expected[0]) and torch.equal(entropy, expected[1])
    found = torch.autograd.grad(logp.sum() + entropy.sum(), [wide, turned])
    wanted = torch.autograd.grad(expected[0].sum() + expected[1].sum(), [hidden, weight])
    assert torch.equal(found[0][:, 6:], wanted[0]) and not found[0][:, :6].any() and torch.equal(found[1], wanted[1])


def same_bits(device: str) -> None:
    case = inputs(70, 20, 300, device)
    runs = []
    for _ in range(2):
        values = selected_logprob(*case, SLICE)
        runs.append([*values, *gradients(case, values)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def no_tokens(device: str) -> None:
    case = inputs(0, 4, 9, device)
    logp, entropy = selected_logprob(*case, SLICE)
    assert logp.shape == entropy.shape == (0,)
    dhidden, dweight, dbias = gradients(case, (logp, entropy))
    assert dhidden.shape == (0, 4) and not dweight.any() and not dbias.any()


class _Sizes(TorchDispatchMode):
    """Record the bytes of the largest tensor any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.nbytes)
        return out


def dispatched(device: str) -> None:
    """The dispatch runs the kernels, and the largest tensor anywhere is the slice it announces."""
    m, v = 256, 1024
    choice = dispatch.choose(m, v, chunk=32, backend="triton", device=device)
    assert choice.backend == "triton" and choice.chunk == 128 and choice.peak_bytes == m * 128 * 4
    case = inputs(m, 8, v, device, bias=False)
    with _Sizes() as sizes:
        logp, entropy = dispatch.selected_logprob(*case, chunk=32, backend="triton")
        (logp + entropy).sum().backward()
    assert sizes.largest == choice.peak_bytes
    with torch.no_grad(), _Sizes() as sizes:
        dispatch.selected_logprob(*case, chunk=32, backend="triton")
    assert sizes.largest <= case[1].nbytes, "forward holds no logits at all"
    expected = chunked.selected_logprob(*case, 16)
    close(logp, expected[0], 1e-5, "logp")


def refused(device: str) -> None:
    for call in (
        lambda: selected_logprob(*inputs(3, 4, 9, device, dtype=torch.float64), SLICE),
        lambda: dispatch.choose(3, 9, backend="triton", itemsize=8, device=device),
    ):
        try:
            call()
        except ConfigError as error:
            assert "float64" in error.found
            continue
        raise AssertionError("not refused")


CASES: dict[str, Callable[[str], None]] = {
    "smallest": lambda device: shape(device, 1, 1, 2),
    "odd sizes": lambda device: shape(device, 70, 40, 333),
    "full tiles": lambda device: shape(device, 64, 32, 256),
    "no bias": lambda device: shape(device, 5, 65, 129, bias=False),
    "frozen head": lambda device: shape(device, 66, 17, 200, frozen=True),
    "frozen head without bias": lambda device: shape(device, 6, 17, 200, frozen=True, bias=False),
    "borders": borders,
    "many parts": many_parts,
    "gradient of logp alone": lambda device: one_gradient(device, True, False),
    "gradient of entropy alone": lambda device: one_gradient(device, False, False),
    "gradient of entropy alone, frozen": lambda device: one_gradient(device, False, True),
    "constant entropy": constant_entropy,
    "bfloat16": lambda device: half(device, torch.bfloat16, 3e-2),
    "float16": lambda device: half(device, torch.float16, 4e-3),
    "far apart": far_apart,
    "excluded words": excluded_words,
    "wrong target": wrong_target,
    "broken weights": broken_weights,
    "strided": strided,
    "same bits": same_bits,
    "no tokens": no_tokens,
    "dispatched": dispatched,
    "refused": refused,
}
