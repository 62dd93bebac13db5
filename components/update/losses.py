"""Token losses, minimised: PPO-clip with optional dual clip, CISPO, REINFORCE, each with token or sequence ratios.

Shapes: M action tokens of one micro-batch, S sequences in it; `sequence` [M] gives each token's row. All take
log pi [M] with gradient and log pi_old [M] without.

Every exponent is bounded at `LOG_MOST` first. In float32 exp(88.8) is infinite, and the gradient of a clipped token, 0 times
that, is no number; long before, a single token outweighs all others of its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


LOG_MOST = 10.0
"""Largest exponent of a ratio or of a KL term, in nats: a factor of 22,026. Beyond it the value stays and the gradient is 0.

A token that was sampled from q has log p - log q above b with probability e^-b at most, whatever p is: 1 in 22,026 here, where
p is certain of a token that q all but excludes. Ratios of a policy to itself some steps before stay within 1 or 2.
"""


def log_ratio(logp: Tensor, old: Tensor, sequence: Tensor, num_sequences: int, kind: str) -> Tensor:
    """Return log w [M] with gradient.

    `sequence` is GSPO's token form (arXiv 2507.18071, eq. 14): value mean_t(logp - old), gradient that of the token's
    logp.
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
    """Return l [M]. `log_w` is `log_ratio`, `advantage` [M] is constant; REINFORCE reads logp alone."""
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
    """Return which tokens lost their gradient (CISPO: were capped), below and above, two [M] masks."""
    w = log_w.detach().exp()
    if config.objective == "cispo":
        return torch.zeros_like(w, dtype=torch.bool), w > (config.cap or float("inf"))
    if config.objective == "reinforce":
        none = torch.zeros_like(w, dtype=torch.bool)
        return none, none
    return (w < 1 - config.clip_low) & (advantage < 0), (w > 1 + config.clip_high) & (advantage > 0)
