"""Token losses and divergence estimators against hand-computed values and exact expectations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from instar.components.update import kl, losses
from instar.components.update.presets import preset


def _loss_and_grad(config: Any, ratio: float, advantage: float) -> tuple[float, float]:
    """Return the loss of one token and its derivative by log pi."""
    old = torch.tensor([-1.0], dtype=torch.float64)
    logp = (old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    log_w = losses.log_ratio(logp, old, torch.zeros(1, dtype=torch.int64), 1, config.ratio)
    loss = losses.token_loss(config, logp, log_w, torch.tensor([advantage], dtype=torch.float64)).sum()
    return float(loss.detach()), float(torch.autograd.grad(loss, logp)[0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "grad"),
    [
        (1.0, 1.0, -1.0, -1.0),  # on policy: the full gradient, not half of it at a tie
        (1.0, -1.0, 1.0, 1.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 1.0, -1.28, 0.0),  # above the upper bound
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),  # below the lower bound
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_clip(ratio: float, advantage: float, loss: float, grad: float) -> None:
    got = _loss_and_grad(preset("dapo"), ratio, advantage)
    assert got == (pytest.approx(loss), pytest.approx(grad))


def test_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    config = preset("dapo", clip_dual=3.0)
    assert _loss_and_grad(config, 10.0, -1.0) == (pytest.approx(3.0), 0.0)
    assert _loss_and_grad(preset("dapo"), 10.0, -1.0) == (pytest.approx(10.0), pytest.approx(10.0))
    assert _loss_and_grad(config, 2.0, -1.0) == (pytest.approx(2.0), pytest.approx(2.0))
    assert _loss_and_grad(config, 10.0, 1.0) == (pytest.approx(-1.28), 0.0)


def test_cispo_caps_the_weight_and_keeps_every_gradient() -> None:
    config = preset("cispo", cap=1.28)
    assert _loss_and_grad(config, 1.0, 1.0)[1] == pytest.approx(-1.0)
    assert _loss_and_grad(config, 2.0, 1.0)[1] == pytest.approx(-1.28)
    assert _loss_and_grad(config, 0.1, -1.0)[1] == pytest.approx(0.1)


def test_reinforce_ignores_the_ratio() -> None:
    assert _loss_and_grad(preset("reinforce"), 3.0, 2.0)[1] == pytest.approx(-2.0)


def test_gspo_is_the_gradient_of_the_sequence_ratio() -> None:
    """Sequences of 2 and 3 tokens: the token form's mean has the value and gradient of the clipped s A."""
    config = preset("gspo", clip_low=0.05, clip_high=0.05)
    g = torch.Generator().manual_seed(0)
    old = torch.randn(5, generator=g, dtype=torch.float64)
    logp = (old + 0.01 * torch.randn(5, generator=g, dtype=torch.float64)).requires_grad_()
    sequence, length = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2.0, 3.0], dtype=torch.float64)
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    token = losses.token_loss(config, logp, losses.log_ratio(logp, old, sequence, 2, "sequence"), a[sequence])
    ours = (token / length[sequence]).sum()
    s = torch.stack([(logp - old)[:2].mean(), (logp - old)[2:].mean()]).exp()
    theirs = -torch.minimum(s * a, s.clamp(0.95, 1.05) * a).sum()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()))
    torch.testing.assert_close(torch.autograd.grad(ours, logp)[0], torch.autograd.grad(theirs, logp)[0])


def test_clip_shares() -> None:
    log_w = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.5]).log()
    low, high = losses.clip_shares(preset("dapo"), log_w, torch.tensor([-1.0, 1.0, 1.0, 1.0, -1.0]))
    assert low.tolist() == [True, False, False, False, False]
    assert high.tolist() == [False, False, True, False, False]
    capped = losses.clip_shares(preset("cispo"), torch.tensor([2.0, 6.0]).log(), torch.ones(2))[1]
    assert capped.tolist() == [False, True]


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Logits of a policy and a reference over 12 actions."""
    g = torch.Generator().manual_seed(3)
    return torch.randn(12, generator=g, dtype=torch.float64), torch.randn(12, generator=g, dtype=torch.float64)


def test_estimators_as_values(pair: tuple[Tensor, Tensor]) -> None:
    logp, ref = (x.log_softmax(0) for x in pair)
    p = logp.exp()
    exact = float((p * (logp - ref)).sum())
    assert float((p * kl.k1(logp, ref)).sum()) == pytest.approx(exact)
    assert float((p * kl.k3(logp, ref)).sum()) == pytest.approx(exact)
    assert float((p * kl.k2(logp, ref)).sum()) != pytest.approx(exact, rel=1e-3)
    assert bool((kl.k3(logp, ref) >= 0).all())


@pytest.mark.parametrize(("kind", "target"), [("k2", "reverse"), ("k3", "forward"), ("k3w", "reverse"), ("k1", "none")])
def test_estimators_as_losses(pair: tuple[Tensor, Tensor], kind: str, target: str) -> None:
    """The expected gradient over actions drawn from the policy, summed exactly."""
    logits, ref = pair[0].clone().requires_grad_(), pair[1].log_softmax(0)
    logp = logits.log_softmax(0)
    drawn = logp.detach().exp()
    log_w = logp - logp.detach()
    penalty = kl.k1(logp, ref) if kind == "k1" else kl.token_penalty(kind, logp, ref, log_w)
    got = torch.autograd.grad((drawn * penalty).sum(), logits)[0]
    again = logits.detach().clone().requires_grad_()
    lp = again.log_softmax(0)
    exact = {
        "reverse": (lp.exp() * (lp - ref)).sum(),
        "forward": (ref.exp() * (ref - lp)).sum(),
        "none": (0 * lp).sum(),
    }
    torch.testing.assert_close(got, torch.autograd.grad(exact[target], again)[0], rtol=1e-10, atol=1e-12)
