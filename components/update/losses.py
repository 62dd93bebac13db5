"""The loss of one token, to be minimised, and the ratio w = pi / pi_old that it reads.

    objective    l_t
    clip         -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A)       PPO; with `clip_dual` = c, at most c |A| where A < 0
    cispo        -min(w, cap) A log pi, with no gradient through w
    reinforce    -A log pi

The ratio may be of the token, or one ratio for the whole sequence (GSPO).

Every exponent is bounded at `LOG_MOST` before it is used. In float32 exp(88.8) is infinite. A clipped token has the gradient
0 times that, which is not a number. Long before, one token outweighs all others of its batch.

Shapes: M action tokens of one micro-batch, S sequences in it. `sequence` [M] is the number of a token's sequence. log pi has
a gradient, log pi_old has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


LOG_MOST = 10.0
"""Largest exponent of a ratio or of a KL term, in nats: a factor of 22,026. Beyond it the value stays and the gradient is 0.

The bound is hardly ever reached. If a token is sampled from q, then log p - log q is above b with probability e^-b at most,
whatever p is: here in 1 of 22,026 cases. Between a policy and itself a few steps before, it stays within 1 or 2.
"""


def log_ratio(logp: Tensor, old: Tensor, sequence: Tensor, num_sequences: int, kind: str) -> Tensor:
    """Return log w [M] with gradient: logp - old for `kind` token.

    `kind` sequence is GSPO's token form (arXiv 2507.18071, eq. 14). Its value is the mean of logp - old over the sequence. Its
    gradient is that of the token's own logp.
    """
    token = logp - old
    if kind == "token":
        return token
    mean = sequence_mean(token.detach(), sequence, num_sequences)
    return mean[sequence] + (logp - logp.detach())


def sequence_mean(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Return the mean over each sequence's tokens, [S]."""
    return sequence_sum(values, sequence, num_sequences) / sequence_sum(
        torch.ones_like(values), sequence, num_sequences
    ).clamp_min(1)


def sequence_sum(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Return the sum over each sequence's tokens, [S]."""
    return values.new_zeros(num_sequences).index_add(0, sequence, values)


def bounded_exp(log: Tensor) -> Tensor:
    """Return exp(min(log, LOG_MOST)); the gradient is 0 beyond the bound."""
    return log.clamp(max=LOG_MOST).exp()


def token_loss(config: PolicyGradientConfig, logp: Tensor, log_w: Tensor, advantage: Tensor) -> Tensor:
    """Return l [M]. `log_w` comes from `log_ratio`, and `advantage` [M] is a constant."""
    if config.objective == "reinforce":
        return -advantage * logp
    w = bounded_exp(log_w)
    if config.objective == "cispo":
        return -w.detach().clamp(max=config.cap) * advantage * logp
    clipped = w.clamp(1 - config.clip_low, 1 + config.clip_high)
    loss = torch.maximum(-w * advantage, -clipped * advantage)
    if config.clip_dual is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -config.clip_dual * advantage), loss)
    return loss


def clip_shares(config: PolicyGradientConfig, log_w: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens were clipped below and which above, two masks [M].

    A clipped token has no gradient. A token that CISPO caps keeps its gradient, with a smaller weight.
    """
    w = log_w.detach().exp()
    if config.objective == "cispo":
        return torch.zeros_like(w, dtype=torch.bool), w > (config.cap or float("inf"))
    if config.objective == "reinforce":
        none = torch.zeros_like(w, dtype=torch.bool)
        return none, none
    return (w < 1 - config.clip_low) & (advantage < 0), (w > 1 + config.clip_high) & (advantage > 0)
