"""Row 33, a token whose exponent overflows: the loss is finite and its gradient is no number, or one token outweighs a batch."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from instar.components.update import kl, losses, metrics
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.presets import PRESETS
from instar.components.update.trace import Trace

GAPS = torch.tensor([-1000.0, -89.0, -29.0, -3.0, 0.0, 3.0, 9.9, 10.1, 29.0, 88.7, 89.0, 1000.0])
EVERY = {**PRESETS, "dual": dataclasses.replace(PRESETS["grpo"], clip_dual=3.0)}


def gradient(loss: Any, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss [M] and d loss / d log pi [M] of tokens whose log-probability is `gaps` above the other one."""
    logp = gaps.clone().requires_grad_()
    found = loss(logp, torch.zeros_like(gaps))
    return found.detach(), torch.autograd.grad(found.sum(), logp)[0]


def token_loss(config: PolicyGradientConfig, advantage: float) -> Any:
    def loss(logp: Tensor, old: Tensor) -> Tensor:
        at = torch.arange(len(logp))  # every token a sequence of its own
        log_w = losses.log_ratio(logp, old, at, len(at), config.ratio)
        return losses.token_loss(config, logp, log_w, torch.full_like(old, advantage))

    return loss


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("name", EVERY)
def test_no_exponent_makes_a_gradient_that_is_no_number(name: str, advantage: float) -> None:
    """Planted: a log ratio of 89 with A > 0 gave loss -2.56 and gradient NaN."""
    value, slope = gradient(token_loss(EVERY[name], advantage), GAPS)
    assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(slope).all())
    if EVERY[name].objective == "clip" and advantage > 0:
        clipped = math.log1p(EVERY[name].clip_high) < GAPS
        assert bool((slope[clipped] == 0).all()) and bool((slope[~clipped & (GAPS > -89)] != 0).all())


@pytest.mark.parametrize("kind", ["k2", "k3", "k3w"])
def test_no_gap_to_the_reference_makes_a_penalty_that_is_no_number(kind: str) -> None:
    value, slope = gradient(lambda logp, ref: kl.token_penalty(kind, logp, ref, logp - ref), GAPS)
    assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(slope).all())


def test_one_token_does_not_decide_a_batch() -> None:
    """Planted: at a gap of 29 nats k3 is 4e12. Now it is e^10 - 11 and pulls nowhere; its neighbours pull as before."""
    gaps = torch.tensor([0.3, -29.0, -0.5, 9.0])
    value, slope = gradient(lambda logp, ref: kl.token_penalty("k3", logp, ref, logp - ref), gaps)
    assert value[1] == pytest.approx(math.exp(10) - 11) and slope[1] == 0
    plain = -torch.expm1(-gaps)
    torch.testing.assert_close(slope[[0, 2, 3]], plain[[0, 2, 3]])


def test_ordinary_values_are_what_the_formulas_give() -> None:
    """Up to 10 nats the bound changes no bit."""
    logp, old = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).mul(2).clamp(-4.9, 4.9)
    assert torch.equal(losses.bounded_exp(logp - old), (logp - old).exp())
    assert torch.equal(kl.k3(logp, old), (old - logp).expm1() - (old - logp))


def test_what_the_bound_touched_is_counted() -> None:
    trace = Trace(log_w=[GAPS, GAPS], kl=[(-GAPS, GAPS)], clipped=[(0, 0)])
    found = metrics._trace_metrics(trace)
    assert (found["ratio/num_bounded"], found["kl/num_bounded"]) == (10.0, 5.0)
    assert math.isfinite(found["ratio/max"])
    assert "ratio/num_bounded" not in metrics._trace_metrics(Trace(log_w=[GAPS[:7]]))
