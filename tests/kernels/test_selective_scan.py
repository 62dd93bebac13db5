"""Selective scan: numbers by hand, every version against the step loop in values and gradients, what is kept, inert steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from instar.errors import ContractError
from instar.kernels.selective_scan import cpp, dispatch, reference, sliced
from support.scans import NAMES, Scan, case, close, grads

SCANS: dict[str, Scan] = {"sliced": sliced.selective_scan, "cpp": cpp.selective_scan}
SHAPES = [(1, 1, 1, 1), (2, 1, 3, 2), (3, 7, 1, 4), (2, 16, 16, 1), (3, 17, 33, 5), (1, 33, 130, 16), (5, 9, 257, 3)]
"""Sequences, steps, channels, state: around the 16 lanes, the 16 steps and the 128 channels of the C++ kernel."""


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The C++ library in a folder of its own; no variable of the caller reaches the choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("INSTAR_SCAN", raising=False)
        patch.delenv("INSTAR_SCAN_CPP", raising=False)
        yield cpp.LIBRARY.build()


@pytest.mark.parametrize("name", ["reference", *SCANS])
def test_numbers_by_hand(name: str) -> None:
    """A = -log 2, so the state halves per unit of delta. h: 4 -> 4/2 + 1*3*2 = 8 -> 8/4 + 2*1*3 = 8; y = C h + D u."""
    scan = {"reference": reference.selective_scan, **SCANS}[name]
    u, delta = torch.tensor([[[3.0], [1.0]]]), torch.tensor([[[1.0], [2.0]]])
    A, B, C = torch.tensor([[-math.log(2)]]), torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[5.0], [-1.0]]])
    y, last = scan(u, delta, A, B, C, torch.tensor([7.0]), torch.tensor([[[4.0]]]))
    torch.testing.assert_close(y, torch.tensor([[[61.0], [-1.0]]]))
    torch.testing.assert_close(last, torch.tensor([[[8.0]]]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("skip", "start"), [(True, True), (False, False), (True, False), (False, True)])
@pytest.mark.parametrize("name", SCANS)
def test_values_and_all_gradients_equal_the_step_loop(
    name: str, skip: bool, start: bool, shape: tuple[int, int, int, int]
) -> None:
    inputs = case(shape, skip, start)
    dtype, bound = (torch.float64, 1e-12) if name == "sliced" else (torch.float32, 3e-6)
    close(grads(SCANS[name], inputs, dtype), grads(reference.selective_scan, inputs), bound)


@pytest.mark.parametrize("through", ["y", "last"])
@pytest.mark.parametrize("name", SCANS)
def test_one_output_alone_carries_gradient(name: str, through: str) -> None:
    inputs = case((2, 21, 18, 3))
    dtype, bound = (torch.float64, 1e-12) if name == "sliced" else (torch.float32, 3e-6)
    ours = grads(SCANS[name], inputs, dtype, through)
    close(ours, grads(reference.selective_scan, inputs, through=through), bound)
    assert bool(ours[2 + NAMES.index("C")].any()) == (through == "y")


@pytest.mark.parametrize(("slice_size", "steps"), [(1, 1), (40, 2), (64, 4), (4096, 3)])
def test_uneven_slices(monkeypatch: pytest.MonkeyPatch, slice_size: int, steps: int) -> None:
    """Blocks of sequences and slices of steps that do not divide the shape."""
    monkeypatch.setattr(sliced, "SLICE", slice_size)
    monkeypatch.setattr(sliced, "STEPS", steps)
    inputs = case((5, 7, 4, 2))
    close(grads(sliced.selective_scan, inputs), grads(reference.selective_scan, inputs), 1e-12)
    with torch.no_grad():
        close(list(sliced.selective_scan(*inputs)), list(reference.selective_scan(*inputs)), 1e-12)  # type: ignore[arg-type]


def test_gradcheck() -> None:
    inputs = [x.requires_grad_() for x in case((2, 3, 3, 2)) if x is not None]
    assert torch.autograd.gradcheck(sliced.selective_scan, inputs)


@pytest.mark.parametrize("wanted", ["u", "A", "B", "h0"])
@pytest.mark.parametrize("name", SCANS)
def test_a_single_input_wants_gradient(name: str, wanted: str) -> None:
    sides = []
    for scan in (SCANS[name], reference.selective_scan):
        inputs = [x.float() for x in case((2, 5, 17, 3)) if x is not None]
        leaf = inputs[NAMES.index(wanted)].requires_grad_()
        y, last = scan(*inputs)
        sides.append([*torch.autograd.grad(y.sum() + last.square().sum(), [leaf])])
    close(sides[0], sides[1], 3e-6)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Every tensor that torch allocates without a value holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(3, 19, 35, 5), (7, 4, 16, 2)], ids=str)
@pytest.mark.parametrize("name", SCANS)
def test_memory_without_a_value_is_never_read(
    name: str, shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliced, "SLICE", 1000)
    for start in (True, False):
        inputs = case(shape, start=start)
        assert all(x.isfinite().all() for x in grads(SCANS[name], inputs, torch.float32))
        with torch.no_grad():
            single = [None if x is None else x.float() for x in inputs]
            assert all(x.isfinite().all() for x in SCANS[name](*single))


@pytest.mark.parametrize("name", ["reference", *SCANS])
def test_a_step_with_delta_zero_is_inert(name: str) -> None:
    """Padding in front, inside and behind: nothing else changes with its contents, and it gets no gradient."""
    scan = {"reference": reference.selective_scan, **SCANS}[name]
    inputs = [x.float() for x in case((3, 12, 20, 4)) if x is not None]
    live = torch.ones(12, dtype=torch.bool)
    live[[0, 1, 5, 11]] = False
    inputs[1] = inputs[1] * live[:, None]
    other = [x.clone() for x in inputs]
    for number in (0, 3, 4):  # u, B, C
        other[number][:, ~live] = 1e3
    short = [x[:, live].contiguous() if x.ndim == 3 and x.shape[1] == 12 else x for x in inputs]
    (y, last), (y_other, last_other), (y_short, last_short) = scan(*inputs), scan(*other), scan(*short)
    assert torch.equal(last, last_other) and torch.equal(y[:, live], y_other[:, live])
    torch.testing.assert_close(last, last_short)
    torch.testing.assert_close(y[:, live], y_short)
    found = grads(lambda *x: (scan(*x)[0][:, live], scan(*x)[1]), list(other), torch.float32)
    assert not found[2 + 0][:, ~live].any() and not found[2 + 3][:, ~live].any()


@pytest.mark.parametrize("cut", [1, 6, 16, 22])
@pytest.mark.parametrize("name", SCANS)
def test_two_halves_with_a_carried_state_are_one_pass(name: str, cut: int) -> None:
    inputs = case((2, 23, 18, 4))

    def halves(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        first = [x[:, :cut] for x in (u, delta, B, C)]
        rest = [x[:, cut:] for x in (u, delta, B, C)]
        y, h = SCANS[name](first[0], first[1], A, first[2], first[3], D, h0)
        y_rest, h = SCANS[name](rest[0], rest[1], A, rest[2], rest[3], D, h)
        return torch.cat([y, y_rest], dim=1), h

    dtype, bound = (torch.float64, 1e-12) if name == "sliced" else (torch.float32, 3e-6)
    close(grads(halves, inputs, dtype), grads(SCANS[name], inputs, dtype), bound)


@pytest.mark.parametrize("name", SCANS)
def test_single_steps_are_the_scan(name: str) -> None:
    u, delta, A, B, C, D, h = (x.float() for x in case((3, 10, 20, 4)) if x is not None)
    y, last = SCANS[name](u, delta, A, B, C, D, h)
    kept = h.clone()
    state = h
    for t in range(10):
        y_t, state = reference.step(state, u[:, t], delta[:, t], A, B[:, t], C[:, t], D)
        torch.testing.assert_close(y_t, y[:, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)
    assert torch.equal(h, kept)


@pytest.mark.parametrize("name", SCANS)
def test_views_of_any_stride(name: str) -> None:
    inputs = [x.float() for x in case((3, 9, 18, 4)) if x is not None]
    odd = []
    for x in inputs:
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), math.nan).movedim(0, -1).contiguous().movedim(-1, 0)
        wide[..., ::2] = x
        odd.append(wide[..., ::2])
    assert not any(x.is_contiguous() for x in odd)
    for a, b in zip(SCANS[name](*odd), SCANS[name](*inputs), strict=True):
        assert torch.equal(a, b) and a.is_contiguous()
    upstream = [
        torch.autograd.grad(SCANS[name](*x)[0].transpose(0, 2).exp().sum(), x)
        for x in ([t.detach().requires_grad_() for t in odd], [t.detach().requires_grad_() for t in inputs])
    ]
    assert all(torch.equal(a, b) for a, b in zip(*upstream, strict=True))


@pytest.mark.parametrize("name", SCANS)
def test_equal_calls_give_equal_bits(name: str) -> None:
    inputs = case((6, 31, 70, 16))
    first, second = (grads(SCANS[name], inputs, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_bits_of_the_kernel_do_not_depend_on_the_threads() -> None:
    inputs, threads, found = case((5, 40, 300, 16)), torch.get_num_threads(), []
    assert 3 * cpp.WORK < 5 * 40 * 300 * 16
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            found.append(grads(cpp.selective_scan, inputs, torch.float32))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_the_kernels_exponential() -> None:
    """One step from state 1 without input leaves exp(delta A): to 2e-7 relative wherever float32 is normal."""
    x = torch.cat([-torch.logspace(-6, 1.94, 4001), torch.linspace(-87.3, 0, 4001), torch.tensor([-0.0])])
    ones, none = torch.ones(1, 1, len(x)), torch.zeros(1, 1, 1)
    last = cpp.selective_scan(torch.zeros_like(ones), ones, x[:, None], none, none, None, ones.transpose(1, 2))[1]
    true = x.double().exp()
    assert float((last[0, :, 0].double() / true - 1).abs().max()) < 2e-7
    far = torch.tensor([-1e4, -math.inf, 0.0, math.nan])
    ones = torch.ones(1, 1, 4)
    last = cpp.selective_scan(torch.zeros_like(ones), ones, far[:, None], none, none, None, ones.transpose(1, 2))[1]
    assert last[0, :3, 0].tolist() == [0.0, 0.0, 1.0] and last[0, 3, 0].isnan()


@pytest.mark.parametrize("name", ["reference", *SCANS])
@pytest.mark.parametrize("number", range(7))
def test_nan_is_not_swallowed(name: str, number: int) -> None:
    inputs = [x.float() for x in case((2, 6, 18, 3)) if x is not None]
    inputs[number].view(-1)[0] = math.nan
    y, _ = {"reference": reference.selective_scan, **SCANS}[name](*inputs)
    assert y.isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SCANS)
def test_half_types_keep_a_float32_state(name: str, dtype: torch.dtype) -> None:
    """Equal to the step loop on the rounded inputs: up to one rounding of y, none of the state."""
    rounded = [None if x is None else x.to(dtype) for x in case((2, 40, 20, 4))]
    ours = grads(SCANS[name], rounded, dtype)
    true = grads(reference.selective_scan, [None if x is None else x.double() for x in rounded])
    assert ours[0].dtype == dtype and ours[1].dtype == torch.float32
    assert all(g.dtype == dtype for g in ours[2:])
    assert float((ours[1].double() - true[1]).abs().max()) < 1e-5
    unit = torch.finfo(dtype).eps
    assert float(((ours[0].double() - true[0]).abs() - unit * true[0].abs()).max()) < 1e-5


@pytest.mark.parametrize("name", SCANS)
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    inputs = case((2, 9, 20, 4))
    plain = grads(SCANS[name], inputs, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = grads(SCANS[name], inputs, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


class _Sizes(TorchDispatchMode):
    """Record the largest tensor any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return out


def _saved(scan: Scan, inputs: list[Tensor]) -> int:
    """Return the numbers that autograd keeps beside the inputs."""
    sizes: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.__setitem__(t.data_ptr(), t.numel()) or t, lambda t: t
    ):
        scan(*inputs)
    return sum(size for pointer, size in sizes.items() if pointer not in {x.data_ptr() for x in inputs})


def test_what_is_kept_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """One state per slice of steps, per 16 steps in C++ (with A in its own layout); none without gradients."""
    b, length, e, n = 3, 50, 32, 16
    inputs = [x.float().requires_grad_() for x in case((b, length, e, n)) if x is not None]
    assert _saved(cpp.selective_scan, inputs) == 4 * b * e * n + e * n
    monkeypatch.setattr(sliced, "SLICE", b * 8 * e * n)
    assert _saved(sliced.selective_scan, inputs) == 7 * b * e * n
    monkeypatch.setattr(sliced, "SLICE", 4 * e * n)
    with _Sizes() as sizes, torch.no_grad():
        for scan in SCANS.values():
            scan(*inputs)
    assert sizes.largest == b * length * e and 5 * e * n < b * length * e < length * e * n


@pytest.mark.parametrize("name", ["reference", *SCANS])
def test_no_steps(name: str) -> None:
    inputs = [x.float() for x in case((2, 0, 5, 3)) if x is not None]
    inputs[-1].requires_grad_()
    y, last = {"reference": reference.selective_scan, **SCANS}[name](*inputs)
    assert y.shape == (2, 0, 5) and torch.equal(last, inputs[-1])
    assert torch.equal(torch.autograd.grad(last.sum(), inputs[-1])[0], torch.ones(2, 5, 3))


@pytest.mark.parametrize(
    ("number", "shape"),
    [(0, (2, 15)), (1, (2, 3, 1)), (2, (3, 5)), (3, (2, 3, 1)), (4, (1, 3, 4)), (5, (1,)), (6, (2, 4, 5))],
)
def test_nothing_is_broadcast(number: int, shape: tuple[int, ...]) -> None:
    inputs = case((2, 3, 5, 4))
    inputs[number] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(
        ContractError, match=rf"selective_scan:{'delta' if number == 0 else NAMES[number]}|selective_scan:u"
    ):
        dispatch.selective_scan(*inputs)  # type: ignore[arg-type]
