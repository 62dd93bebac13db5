"""Estimators of the divergence from the reference, l = log pi - log ref on samples from pi (Schulman 2020).

As values k1 and k3 are unbiased for KL(pi||ref). As losses: k2 has the gradient of KL(pi||ref), k3 that of
KL(ref||pi), k3 times the differentiable ratio that of KL(pi||ref), and k1 none in expectation.
"""

from __future__ import annotations

from torch import Tensor

from instar.components.update.losses import LOG_MOST, bounded_exp


def k1(logp: Tensor, ref: Tensor) -> Tensor:
    """Return l [M]."""
    return logp - ref


def k2(logp: Tensor, ref: Tensor) -> Tensor:
    """Return l^2 / 2 [M]."""
    return 0.5 * (logp - ref).square()


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """Return exp(-l) - 1 + l [M], never negative. Beyond -l = LOG_MOST (10 nats) it stays at 22,015, without a gradient."""
    gap = (ref - logp).clamp(max=LOG_MOST)
    return gap.expm1() - gap


def token_penalty(kind: str, logp: Tensor, ref: Tensor, log_w: Tensor) -> Tensor:
    """Return the penalty per token [M] as a loss term; `log_w` is the log ratio with gradient."""
    if kind == "k2":
        return k2(logp, ref)
    if kind == "k3":
        return k3(logp, ref)
    return k3(logp, ref) * bounded_exp(log_w)
