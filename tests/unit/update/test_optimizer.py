"""AdamW against torch's plain form, schedules, and a state that survives a round trip bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instar.components.update.config import PolicyGradientConfig
from instar.components.update.optimizer import Optimizer, lr_factor
from instar.errors import LedgerError, NumericsError


def _parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"w": (3, 4), "norm": (4,), "critic.weight": (1, 4)}
    return {name: nn.Parameter(torch.randn(shape, generator=g)) for name, shape in shapes.items()}


def _set_grads(named: dict[str, nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(100 + step)
    for p in named.values():
        p.grad = torch.randn(p.shape, generator=g)


CONFIG = PolicyGradientConfig(
    lr=0.01, critic_lr=0.1, weight_decay=0.1, max_grad_norm=1.0, schedule="cosine", warmup_steps=2, total_steps=9
)


def test_equals_plain_adamw() -> None:
    ours, theirs = _parameters(), _parameters()
    optimizer = Optimizer(CONFIG, ours.items())
    groups = [
        {"params": [theirs["w"]], "weight_decay": 0.1},
        {"params": [theirs["norm"]], "weight_decay": 0.0},
        {"params": [theirs["critic.weight"]], "weight_decay": 0.1},
    ]
    plain = torch.optim.AdamW(groups, lr=0.01, foreach=False, fused=False)
    for step in range(4):
        _set_grads(ours, step)
        _set_grads(theirs, step)
        norm = optimizer.step()
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)))
        for group, base in zip(plain.param_groups, (0.01, 0.01, 0.1), strict=True):
            group["lr"] = base * lr_factor(CONFIG, step)
        plain.step()
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], rtol=1e-6, atol=1e-7)


def test_state_continues_bit_for_bit() -> None:
    whole, parts = _parameters(), _parameters()
    one, first = Optimizer(CONFIG, whole.items()), Optimizer(CONFIG, parts.items())
    for step in range(3):
        for named, optimizer in ((whole, one), (parts, first)):
            _set_grads(named, step)
            optimizer.step()
    second = Optimizer(CONFIG, parts.items())
    second.load(first.steps, first.adam_steps(), {k: v.clone() for k, v in first.tensors().items()})
    for step in range(3, 6):
        for named, optimizer in ((whole, one), (parts, second)):
            _set_grads(named, step)
            optimizer.step()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert second.steps == 6 and second.lr() == one.lr()


def test_a_state_of_another_model_is_refused() -> None:
    saved = Optimizer(CONFIG, _parameters().items())
    other = Optimizer(CONFIG, [("w", nn.Parameter(torch.zeros(3, 4)))])
    with pytest.raises(LedgerError, match=r"norm|critic"):
        other.load(0, saved.adam_steps(), saved.tensors())


def test_bad_gradients_change_nothing() -> None:
    named = _parameters()
    optimizer = Optimizer(CONFIG, named.items())
    before = {name: p.detach().clone() for name, p in named.items()}
    _set_grads(named, 0)
    assert named["w"].grad is not None
    named["w"].grad[0, 0] = torch.nan
    with pytest.raises(NumericsError):
        optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in named.items())
    assert optimizer.steps == 0 and not any(v.any() for v in optimizer.tensors().values())


def test_schedules() -> None:
    assert [round(lr_factor(CONFIG, s), 4) for s in (0, 1, 2, 9, 50)] == [0.5, 1.0, 1.0, 0.0, 0.0]
    linear = PolicyGradientConfig(schedule="linear", total_steps=4)
    assert [lr_factor(linear, s) for s in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert lr_factor(PolicyGradientConfig(), 10**6) == 1.0
