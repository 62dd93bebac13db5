"""What the Triton scan must do, on any device that can run it: functions of the device's name.

Exact values come from the reference in float64 on the very numbers the kernel reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gpu.children import close
from gpu.scan_world import NAMES, TOLERANCE, compare, exact, inputs
from instar.errors import ContractError
from instar.kernels.selective_scan import reference
from instar.kernels.selective_scan.triton_scan import CHUNK, blocks, selective_scan


def shape(device: str, *sizes: int) -> None:
    compare(inputs(*sizes, device=device), TOLERANCE[torch.float32])


def half(device: str, dtype: torch.dtype) -> None:
    compare(inputs(2, 11, 40, 16, device=device, dtype=dtype), TOLERANCE[dtype])


def mixed_types(device: str) -> None:
    args = inputs(2, 5, 6, 4, device=device)
    for name in ("u", "B"):
        args[name] = args[name].detach().bfloat16().requires_grad_()
    compare(args, TOLERANCE[torch.bfloat16])


def without(device: str, *absent: str) -> None:
    args = inputs(2, 10, 12, 5, device=device)
    compare({k: x for k, x in args.items() if k not in absent}, TOLERANCE[torch.float32])


def one_gradient(device: str, use_y: bool) -> None:
    compare(inputs(2, 9, 7, 3, device=device), TOLERANCE[torch.float32], use_y=use_y, use_last=not use_y)


def by_hand(device: str) -> None:
    """One channel, one state entry that halves in a step: 8 -> 4 + 2 = 6 -> 3 + 4 = 7."""
    args = inputs(1, 2, 1, 1, device=device)
    numbers = {
        "u": [2.0, 4.0],
        "delta": [1.0, 1.0],
        "A": [-0.6931471805599453],
        "B": [1.0, 1.0],
        "C": [1.0, 3.0],
        "D": [10.0],
        "h0": [8.0],
    }
    args = {k: torch.tensor(numbers[k], device=device).view(x.shape) for k, x in args.items()}
    y, last = selective_scan(**args)
    close(y.cpu().flatten(), torch.tensor([6.0 + 20.0, 21.0 + 40.0]), 1e-6, "y")
    close(last.cpu().flatten(), torch.tensor([7.0]), 1e-6, "h_last")


def several_blocks(device: str) -> None:
    """More channels than one program takes: the partial sums of dB and dC come from three programs."""
    tile, _ = blocks(80, 16)
    assert 2 * tile < 80 < 3 * tile
    shape(device, 1, CHUNK + 3, 80, 16)


def lengths(device: str) -> None:
    """Each sequence equals the reference on its own steps; what lies beyond may be NaN and gets zeros."""
    args = inputs(4, 19, 6, 5, device=device)
    ends = torch.tensor([0, 7, CHUNK, 30], device=device)
    with torch.no_grad():
        for name in ("u", "delta", "B", "C"):
            for row, end in enumerate(ends.tolist()):
                args[name][row, end:] = float("nan")
    y, last = selective_scan(**args, lengths=ends)
    up = torch.linspace(-1, 1, y.numel(), device=device).view(y.shape)
    loss = (y * up).sum() + (last * last).sum()
    grads = dict(zip(args, torch.autograd.grad(loss, list(args.values())), strict=True))
    total = {name: torch.zeros(args[name].shape, dtype=torch.float64) for name in ("A", "D")}
    for row, end in enumerate(ends.clamp(max=19).tolist()):
        assert not y[row, end:].any() and not grads["u"][row, end:].any() and not grads["B"][row, end:].any()
        truth = exact({k: x if k in ("A", "D") else x[row : row + 1] for k, x in args.items()})
        cut = {k: x[:, :end] if k in ("u", "delta", "B", "C") else x for k, x in truth.items()}
        y_row, last_row = reference.selective_scan(**cut)
        up_row = up[row : row + 1, :end].cpu().double()
        found = torch.autograd.grad(
            (y_row * up_row).sum() + (last_row * last_row).sum(), list(truth.values()), allow_unused=True
        )
        close(y[row : row + 1, :end].cpu(), y_row, 1e-5, f"y of {row}")
        close(last[row : row + 1].cpu(), last_row, 1e-5, f"h_last of {row}")
        for name, grad in zip(truth, found, strict=True):
            if name in total:
                total[name] += 0 if grad is None else grad
            elif grad is not None:
                close(grads[name][row : row + 1].cpu(), grad.nan_to_num(), 1e-5, f"d{name} of {row}")
    for name, grad in total.items():
        close(grads[name].cpu(), grad, 1e-5, f"d{name}")


def split(device: str) -> None:
    """Two passes with the state handed over equal one, gradients through the hand-over included."""
    args = inputs(2, 21, 6, 4, device=device)
    sides = []
    for cut in (0, 5):
        parts = [
            {k: x[:, s] if k in ("u", "delta", "B", "C") else x for k, x in args.items()}
            for s in (slice(0, cut), slice(cut, None))
        ]
        first, state = selective_scan(**parts[0])
        second, last = selective_scan(**{**parts[1], "h0": state})
        y = torch.cat([first, second], dim=1)
        sides.append([y, last, *torch.autograd.grad(y.square().sum() + last.sum(), list(args.values()))])
    for name, ours, theirs in zip(("y", "h_last", *NAMES), *sides, strict=True):
        close(ours, theirs, 1e-5, name)


def strided(device: str) -> None:
    """Slices of one projection, a transposed A and the expanded gradient of a sum need no copies by the caller."""
    plain = inputs(2, 10, 8, 4, device=device)
    joined = torch.cat([plain[k].detach() for k in ("u", "B", "C", "delta")], dim=-1)
    u, B, C, delta = joined.requires_grad_().split([8, 4, 4, 8], dim=-1)
    A = plain["A"].detach().t().contiguous().t()
    assert not (u.is_contiguous() or B.is_contiguous() or A.is_contiguous())
    y, last = selective_scan(u, delta, A, B, C, plain["D"], plain["h0"].detach().mT.contiguous().mT)
    expected, expected_last = selective_scan(**plain)
    assert torch.equal(y, expected) and torch.equal(last, expected_last)
    grads = torch.autograd.grad(expected.sum(), [plain[k] for k in ("u", "B", "C", "delta")])
    assert torch.equal(torch.autograd.grad(y.sum(), joined)[0], torch.cat(grads, dim=-1))


def inert_steps(device: str) -> None:
    """A step with delta 0 reads its input and leaves the state alone: the same end as without those steps."""
    args = {k: x.detach() for k, x in inputs(1, 12, 5, 3, device=device).items()}
    alive = torch.tensor([i % 3 != 1 for i in range(12)], device=device)
    args["delta"] = args["delta"] * alive[None, :, None]
    kept = {k: x[:, alive] if k in ("u", "delta", "B", "C") else x for k, x in args.items()}
    (y, last), (y_kept, last_kept) = selective_scan(**args), selective_scan(**kept)
    assert torch.equal(last, last_kept) and torch.equal(y[:, alive], y_kept)


def same_bits(device: str) -> None:
    args = inputs(3, 10, 40, 16, device=device)
    runs = []
    for _ in range(2):
        y, last = selective_scan(**args)
        runs.append([y, last, *torch.autograd.grad(y.sum() + last.sum(), list(args.values()))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    with torch.no_grad():
        y, last = selective_scan(**args)
    assert torch.equal(y, runs[0][0]) and not y.requires_grad and torch.equal(last, runs[0][1])


def kept_for_backward(device: str) -> None:
    """Forward keeps one state per CHUNK steps, never one per step."""
    args = inputs(2, 5 * CHUNK, 3, 16, device=device)
    sizes: list[int] = []

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(**args)
    states = 2 * 5 * 3 * 16
    assert sorted(sizes) == sorted([states, *(x.numel() for x in args.values())])


def refused(device: str) -> None:
    args = inputs(2, 3, 4, 2, device=device)
    wrong = (
        {**args, "u": args["u"].double()},
        {**args, "lengths": torch.ones(3, dtype=torch.int64, device=device)},
        {**args, "lengths": torch.ones(2, device=device)},
        {**args, "delta": args["delta"][:, :2]},
        {**args, "lengths": torch.ones(2, dtype=torch.int64, device="meta")},
    )
    for bad in wrong:
        try:
            selective_scan(**bad)
        except ContractError:
            continue
        raise AssertionError({k: x.shape for k, x in bad.items()})


CASES: dict[str, Callable[[str], None]] = {
    "smallest": lambda device: shape(device, 1, 1, 1, 1),
    "odd sizes": lambda device: shape(device, 3, 17, 33, 3),
    "state not a power of two": lambda device: shape(device, 2, 9, 20, 20),
    "no steps": lambda device: shape(device, 2, 0, 3, 2),
    "several blocks": several_blocks,
    "by hand": by_hand,
    "bfloat16": lambda device: half(device, torch.bfloat16),
    "float16": lambda device: half(device, torch.float16),
    "mixed types": mixed_types,
    "without D": lambda device: without(device, "D"),
    "without h0": lambda device: without(device, "h0"),
    "without both": lambda device: without(device, "D", "h0"),
    "gradient of y alone": lambda device: one_gradient(device, True),
    "gradient of h_last alone": lambda device: one_gradient(device, False),
    "lengths": lengths,
    "split": split,
    "strided": strided,
    "inert steps": inert_steps,
    "same bits": same_bits,
    "kept for backward": kept_for_backward,
    "refused": refused,
}
