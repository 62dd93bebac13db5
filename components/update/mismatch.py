"""Trainer and sampler disagree on log-probabilities: measure it, correct it, refuse it when it is large.

rho = pi_old / pi_behaviour. Truncated weights min(rho, C); masked weights rho inside [low, high] and 0 outside
(IcePop); sequence versions use the product of rho or its geometric mean. Shapes: M action tokens, S sequences.

The alarm is for rows that the policy itself made: there trainer and sampler compute the same thing. Rows of older policies
differ by what was learned since; the correction is for them, and their gap is measured apart.

In bfloat16 the alarm asks whether prompts disagree, not whether one does: samples of a prompt share its rounding, and one was
.3 nats off in every sample while the other four of its batch were .02 off. A wrong policy, temperature or nucleus is wrong
on all of them. In float32 nothing rounds that far, and one prompt is enough.
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
    """Return the constant factor of every token's loss, [M]; ones when `kind` is off."""
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
    """Return the alarms in force: rounding alone puts two bfloat16 passes of a 135M model .03 to .05 apart, single tokens .5."""
    found = config.mismatch
    if config.dtype != "bfloat16":
        return found
    return dataclasses.replace(found, alarm_mean=2 * found.alarm_mean, alarm_gap=2 * found.alarm_gap)


def measure(config: Mismatch, old: Tensor, behaviour: Tensor, prompt: Tensor) -> dict[str, float]:
    """Return statistics of the raw gap, before any truncation; empty without tokens.

    `prompt` int64 [M] is the prompt of a token; `_low` is what is sure of a mean: less two standard errors over prompts.
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
    """Return the gap of rows that older policies made, which is what the correction is for; empty without any."""
    if old.numel() == 0:
        return {}
    gap = (old - behaviour).double()
    return {
        "mismatch/older_abs_mean": float(gap.abs().mean()),
        "mismatch/older_share_over": float((gap > math.log(config.high)).double().mean()),
    }


def _low(values: Tensor, prompt: Tensor) -> float:
    """Return the lower end of the mean over prompts; of one prompt its mean."""
    place = torch.unique(prompt, return_inverse=True)[1]
    sums = values.new_zeros(int(place.max()) + 1).index_add(0, place, values)
    means = sums / torch.bincount(place)
    error = means.std() / len(means) ** 0.5 if len(means) > 1 else 0.0
    return float(means.mean() - 2 * error)


def _thin(values: Tensor, limit: int = 2**22) -> Tensor:
    """Return at most `limit` evenly spaced values: torch.quantile refuses more than 2^24."""
    return values[:: values.numel() // limit + 1]


def alarm(config: Mismatch, found: dict[str, float], where: str, *, rounded: bool) -> None:
    """Raise `NumericsError` when the measured gap is beyond the thresholds; if `rounded`, what is sure of it over prompts.

    A batch of older policies alone has none: their rows differ from the policy as they should.
    """
    if "mismatch/abs_mean" not in found:
        return
    names = ("abs_low", "share_low") if rounded else ("abs_mean", "share_over")
    mean, share = (found[f"mismatch/{name}"] for name in names)
    if not (mean <= config.alarm_mean and share <= config.alarm_share):
        limits = f"{config.alarm_mean:g}, at most {config.alarm_share:.2%} of tokens over {config.alarm_gap:g}"
        raise NumericsError(
            expected=f"mean |log rho| <= {limits}",
            found=f"mean {found['mismatch/abs_mean']:.4g}, over prompts at least {found['mismatch/abs_low']:.4g}; "
            f"{found['mismatch/share_over']:.2%} of tokens over",
            where=where,
            action="check that the sampler serves this policy, at temperature 1, without top-p or top-k",
        )
