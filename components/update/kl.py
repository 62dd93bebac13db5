"""Estimators of the divergence from the reference policy (Schulman 2020). They read l = log pi - log ref of sampled tokens.

    name    value               gradient as a loss term         unbiased as a value
    k1      l                   0 in expectation                yes
    k2      l^2 / 2             that of KL(pi || ref)           no
    k3      exp(-l) - 1 + l     that of KL(ref || pi)           yes, and never negative; GRPO's
    k3w     w k3                that of KL(pi || ref)           as k3; w = pi / pi_old, with gradient

So k1 is for the reward, and the others are for the loss.
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
    """Return exp(-l) - 1 + l [M]. Where -l is above LOG_MOST (10 nats), it stays at 22,015 and has no gradient."""
    gap = (ref - logp).clamp(max=LOG_MOST)
    return gap.expm1() - gap


def token_penalty(kind: str, logp: Tensor, ref: Tensor, log_w: Tensor) -> Tensor:
    """Return the penalty of each token [M] as a loss term. `log_w` is log(pi / pi_old) with gradient."""
    if kind == "k2":
        return k2(logp, ref)
    if kind == "k3":
        return k3(logp, ref)
    return k3(logp, ref) * bounded_exp(log_w)
