"""Padding is inert: neither its contents nor its amount nor the neighbours in a batch change a prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instar.components.continuous.model import ContinuousOutput
from instar.errors import ContractError
from unit.continuous.cases import ARCHS, Window, policy, run, window


def padded(w: Window, steps: int, fill: float) -> Window:
    """The window with `steps` padded slots in front whose tensors hold `fill`."""
    batch = w.states.shape[0]

    def front(x: Tensor, value: float) -> Tensor:
        return torch.cat([torch.full((batch, steps, *x.shape[2:]), value).to(x.dtype), x], dim=1)

    when = torch.full((batch, steps), 10**6)
    mask = torch.cat([torch.zeros(batch, steps, dtype=torch.bool), w.mask], dim=1)
    return Window(
        front(w.states, fill), front(w.actions, fill), front(w.returns, fill), torch.cat([when, w.timesteps], 1), mask
    )


def parts(out: ContinuousOutput) -> list[Tensor]:
    return [x for x in (out.actions, out.next_states, out.next_returns) if x is not None]


@pytest.mark.parametrize("name", ARCHS)
def test_contents_of_padding_change_nothing(name: str) -> None:
    model, w = policy(ARCHS[name]), window(3, 3)
    out = [parts(run(model, padded(w, 3, fill))) for fill in (0.0, -1e6, float("nan"))]
    for first, *others in zip(*out, strict=True):
        assert bool(first.isfinite().all())
        assert all(torch.equal(first[:, 3:], other[:, 3:]) for other in others)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_amount_of_padding_changes_nothing(name: str, steps: int) -> None:
    model, w = policy(ARCHS[name]), window(2, 4)
    for bare, front in zip(parts(run(model, w)), parts(run(model, padded(w, steps, -7.0))), strict=True):
        torch.testing.assert_close(front[:, steps:], bare, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ARCHS)
def test_padding_takes_no_part_in_gradients(name: str) -> None:
    """Training on padded windows moves the weights as training on the bare ones does."""
    model, w = policy(ARCHS[name]), window(2, 4)
    grads = []
    for case, first in ((w, 0), (padded(w, 3, 5.0), 3)):
        model.zero_grad()
        sum(x[:, first:].square().sum() for x in parts(run(model, case))).backward()  # type: ignore[union-attr]
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for key, value in grads[0].items():
        torch.testing.assert_close(grads[1][key], value, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("name", ARCHS)
def test_a_window_is_the_same_alone_and_in_a_batch(name: str) -> None:
    model, w = policy(ARCHS[name], kind=torch.float32), window(5, 6, kind=torch.float32)
    w.mask[2, :4] = False  # a mask anywhere sends the whole batch down the masked path
    together = run(model, w).actions
    for row in range(5):
        alone = run(model, w.rows([row])).actions[0]
        real = w.mask[row]
        torch.testing.assert_close(together[row][real], alone[real], rtol=0, atol=1e-6)


def test_a_wholly_padded_row_stays_finite() -> None:
    for arch in ARCHS.values():
        w = window(2, 6)
        w.mask[0] = False
        assert bool(run(policy(arch), w).actions.isfinite().all())


def test_padding_on_the_right_is_refused() -> None:
    w = window(2, 6)
    w.mask[1, 4:] = False
    with pytest.raises(ContractError, match="padding on the left"):
        run(policy(ARCHS["two_mixers"]), w)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("states", lambda x: x[..., :2]),
        ("actions", lambda x: x[..., :1]),
        ("returns", lambda x: x[..., None]),
        ("timesteps", lambda x: x[:, :-1]),
        ("mask", lambda x: x[0]),
        ("mask", lambda x: x.long()),
        ("timesteps", lambda x: x + 35),
        ("timesteps", lambda x: x - 1),
    ],
)
def test_a_wrong_window_is_refused_by_name(field: str, change: object) -> None:
    w = window(2, 6)
    setattr(w, field, change(getattr(w, field)))  # type: ignore[operator]
    with pytest.raises(ContractError, match=field if field != "returns" else "returns_to_go"):
        run(policy(ARCHS["two_mixers"]), w)
