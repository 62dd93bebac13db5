"""Trainer and sampler disagree on the log-probability of a token: measure the gap, correct it, stop if it is large.

The gap is rho = pi_old / pi_behaviour: what the trainer says over what the sampler recorded.

    kind           factor on the loss of a token
    token_trunc    min(rho, high)
    token_mask     rho if it is in [low, high], else 0 (IcePop)
    seq_trunc      the same as token_trunc, with one rho for the sequence: the product or the geometric mean
    seq_mask       the same as token_mask, with one rho for the sequence

The alarm looks only at rollouts that the policy itself sampled. There trainer and sampler should say the same. A rollout of an
older policy differs by what was learned since. The correction is meant for those, and their gap is measured apart.

In bfloat16 the alarm asks whether several prompts disagree. All samples of a prompt share its rounding: in one batch, one
prompt was 0.3 nats off in every sample, while the other four were 0.02 off. A wrong policy, temperature or top-p is wrong on
all prompts. In float32 rounding is never that large, so one prompt is enough.

Shapes: M action tokens, S sequences.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from instar.components.update.losses import sequence_mean, sequence_sum
from instar.errors import NumericsError

if TYPE_CHECKING:
    from instar.components.update.config import Mismatch, PolicyGradientConfig


def weights(config: Mismatch, old: Tensor, behaviour: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Return the factor on the loss of each token, [M], without gradient. It is 1 when `kind` is off."""
    log_rho = (old - behaviour).detach()
    if config.kind == "off":
        return torch.ones_like(log_rho)
    level, action = config.kind.split("_")
    if level == "seq":
        combine = sequence_sum if config.agg == "sum" else sequence_mean
        log_rho = combine(log_rho, sequence, num_sequences)[sequence]
    rho = log_rho.exp()
    if action == "trunc":
        return rho.clamp(max=config.high)
    return torch.where((rho >= config.low) & (rho <= config.high), rho, torch.zeros_like(rho))


def limits(config: PolicyGradientConfig) -> Mismatch:
    """Return the limits of the alarm. In bfloat16 they are twice those of the configuration.

    Rounding alone puts two bfloat16 passes of a model with 135M parameters 0.03 to 0.05 nats apart, and single tokens 0.5.
    """
    mismatch = config.mismatch
    if config.dtype != "bfloat16":
        return mismatch
    return dataclasses.replace(mismatch, alarm_mean=2 * mismatch.alarm_mean, alarm_gap=2 * mismatch.alarm_gap)


def measure(config: Mismatch, old: Tensor, behaviour: Tensor, prompt: Tensor) -> dict[str, float]:
    """Return statistics of the gap before any truncation. Without tokens there are none.

    `prompt` int64 [M] is the number of each token's prompt. A name that ends in `_low` is a cautious mean: the mean over
    prompts less two standard errors.
    """
    if old.numel() == 0:
        return {}
    gap = (old - behaviour).double()
    rho = gap.clamp(-50, 50).exp()
    over = (gap.abs() > config.alarm_gap).double()
    points = torch.quantile(_thin(gap), gap.new_tensor([0.01, 0.5, 0.99])).clamp(max=700).exp().tolist()
    return {
        "mismatch/abs_mean": float(gap.abs().mean()),
        "mismatch/abs_max": float(gap.abs().max()),
        "mismatch/ratio_max": float(rho.max()),
        "mismatch/ratio_q01": points[0],
        "mismatch/ratio_q50": points[1],
        "mismatch/ratio_q99": points[2],
        "mismatch/kl": float((rho - 1 - gap.clamp(-50, 50)).mean()),
        "mismatch/share_over": float(over.mean()),
        "mismatch/abs_low": _low(gap.abs(), prompt),
        "mismatch/share_low": _low(over, prompt),
    }


def measure_older(config: Mismatch, old: Tensor, behaviour: Tensor) -> dict[str, float]:
    """Return the gap of rollouts that older policies sampled. Without such rollouts there is none."""
    if old.numel() == 0:
        return {}
    gap = (old - behaviour).double()
    return {
        "mismatch/older_abs_mean": float(gap.abs().mean()),
        "mismatch/older_share_over": float((gap > math.log(config.high)).double().mean()),
    }


def _low(values: Tensor, prompt: Tensor) -> float:
    """Return the mean over prompts less two standard errors. With one prompt it is that prompt's mean."""
    place = torch.unique(prompt, return_inverse=True)[1]
    sums = values.new_zeros(int(place.max()) + 1).index_add(0, place, values)
    means = sums / torch.bincount(place)
    error = means.std() / len(means) ** 0.5 if len(means) > 1 else 0.0
    return float(means.mean() - 2 * error)


def _thin(values: Tensor, limit: int = 2**22) -> Tensor:
    """Return at most `limit` evenly spaced values, because torch.quantile refuses more than 2^24."""
    return values[:: values.numel() // limit + 1]


def alarm(config: Mismatch, gap: dict[str, float], where: str, *, rounded: bool) -> None:
    """Raise `NumericsError` when the measured gap is beyond the limits. If `rounded`, its cautious means are compared.

    If every rollout is of an older policy, there is nothing to compare.
    """
    if "mismatch/abs_mean" not in gap:
        return
    names = ("abs_low", "share_low") if rounded else ("abs_mean", "share_over")
    mean, share = (gap[f"mismatch/{name}"] for name in names)
    if not (mean <= config.alarm_mean and share <= config.alarm_share):
        limits = f"{config.alarm_mean:g}, at most {config.alarm_share:.2%} of tokens over {config.alarm_gap:g}"
        raise NumericsError(
            expected=f"mean |log rho| <= {limits}",
            found=f"mean {gap['mismatch/abs_mean']:.4g}, over prompts at least {gap['mismatch/abs_low']:.4g}; "
            f"{gap['mismatch/share_over']:.2%} of tokens over",
            where=where,
            action="check that the sampler runs this policy, at temperature 1, without top-p or top-k",
        )
