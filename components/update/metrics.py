"""The numbers that every update reports.

A number that is undefined, such as a quantile of nothing, is left out. It is never written as 0.
A plain name is for the whole batch, `arm/<arm>/...` for one arm. If a batch has several kinds of trajectories, `kind/<kind>/...`
is for one kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from instar.components.update.advantages import Bools, Floats, group_sum, zero_variance
from instar.components.update.losses import LOG_MOST
from instar.components.update.trace import Outcome, Trace
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Metrics

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

MOST = 700.0
"""Largest exponent of a ratio in a metric. A larger one gives infinity in float64."""


def collect(config: PolicyGradientConfig, data: UpdateBatch, outcome: Outcome) -> Metrics:
    """Return all metrics of an update."""
    entropy = _token_means(data, outcome.trace)
    everything = np.ones(len(data.group), dtype=np.bool_)
    out: Metrics = {
        **_rollout_metrics(config, data, outcome, everything, entropy),
        **_trace_metrics(outcome.trace),
        "num_prompts": float(data.num_groups),
        "num_rollouts": float(data.valid.sum()),
        "num_invalid": float(data.group_size.sum() - data.scored.sum()),
        "num_dropped_groups": float(data.dropped.sum()),
    }
    for i, arm in enumerate(data.arms):
        mask = data.group_arm[data.group] == i
        out |= {f"arm/{arm}/{k}": v for k, v in _rollout_metrics(config, data, outcome, mask, entropy).items()}
    kinds = np.asarray(data.kind)
    for kind in sorted(set(data.kind)) if len(set(data.kind)) > 1 else ():
        mask = kinds == kind
        out |= {f"kind/{kind}/{k}": v for k, v in _rollout_metrics(config, data, outcome, mask, entropy).items()}
    return out


def _rollout_metrics(
    config: PolicyGradientConfig, data: UpdateBatch, outcome: Outcome, mask: Bools, entropy: Floats
) -> Metrics:
    rows = np.flatnonzero(data.valid & mask)
    if not len(rows):
        return {}
    group = data.group[rows]
    present = np.bincount(group, minlength=data.num_groups) > 0
    constant = zero_variance(data.correct[rows], group, data.num_groups) & present
    mean = group_sum(data.correct[rows], group, data.num_groups) / np.maximum(
        np.bincount(group, minlength=data.num_groups), 1
    )
    flat_reward = zero_variance(data.reward[rows], group, data.num_groups) & present
    lengths, right = data.lengths[rows], data.correct[rows] == 1.0
    num = float(present.sum())
    out = {
        "reward_mean": float(data.reward[rows].mean()),
        "correct_mean": float(data.correct[rows].mean()),
        "zero_variance_share": float(flat_reward.sum() / num),
        "all_right_share": float((constant & (mean == 1.0)).sum() / num),
        "all_wrong_share": float((constant & (mean == 0.0)).sum() / num),
        "kept_share": float((outcome.trained_groups & present).sum() / num),
        "abs_advantage_mean": float(outcome.abs_advantage[rows].mean()),
        "truncated_share": float(data.truncated[rows].mean()),
        "length_mean": float(lengths.mean()),
    }
    for name, chosen in (("length_right", lengths[right]), ("length_wrong", lengths[~right])):
        out |= {name: float(chosen.mean())} if len(chosen) else {}
    seen = entropy[rows][np.isfinite(entropy[rows])]
    out |= {"entropy": float(seen.mean())} if len(seen) else {}
    if config.overlong.kind == "soft":
        over = np.clip(lengths - (config.overlong.max_length - config.overlong.buffer), 0, None) > 0
        out["overlong_share"] = float(over.mean())
    return out


def _trace_metrics(trace: Trace) -> Metrics:
    out: Metrics = {
        "updates": float(len(trace.grad_norms)),
        "skipped_steps": float(trace.skipped),
        "padding_ratio": trace.padding,
        **trace.gap,
    }
    means: dict[str, list[float]] = {
        "loss": trace.losses,
        "grad_norm": trace.grad_norms,
        "lr": trace.lrs,
        "normaliser": trace.normalisers,
    }
    out |= {name: float(np.mean(values)) for name, values in means.items() if values}
    if trace.log_w:
        ratio = torch.cat(trace.log_w).double().clamp(max=MOST).exp()
        points = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64, device=ratio.device)
        thin = ratio[:: ratio.numel() // 2**22 + 1]
        for name, value in zip(("q01", "q50", "q99"), torch.quantile(thin, points).tolist(), strict=True):
            out[f"ratio/{name}"] = value
        out |= {"ratio/min": float(ratio.min()), "ratio/max": float(ratio.max())}
        out["clip_share_low"] = sum(low for low, _ in trace.clipped) / ratio.numel()
        out["clip_share_high"] = sum(high for _, high in trace.clipped) / ratio.numel()
        out["tokens_trained"] = float(ratio.numel())
    out |= _bounded(trace)
    if trace.kl:
        out["kl/k1"] = float(torch.cat([a for a, _ in trace.kl]).double().mean())
        out["kl/k3"] = float(torch.cat([b for _, b in trace.kl]).double().mean())
    if trace.values:
        value, target = (torch.cat([pair[i] for pair in trace.values]).double() for i in (0, 1))
        out["critic/value_mean"] = float(value.mean())
        spread = float(target.var(correction=0))
        out |= {"critic/explained_variance": 1.0 - float((target - value).var(correction=0)) / spread} if spread else {}
    return out


def _bounded(trace: Trace) -> Metrics:
    """Count the exponents beyond the bound of losses and KL terms (`losses.LOG_MOST`). A count of 0 is left out."""
    gaps = {"ratio/num_bounded": trace.log_w, "kl/num_bounded": [-k1 for k1, _ in trace.kl]}
    counts = {name: sum(int((gap > LOG_MOST).sum()) for gap in passes) for name, passes in gaps.items()}
    return {name: float(count) for name, count in counts.items() if count}


def _token_means(data: UpdateBatch, trace: Trace) -> Floats:
    """Return the mean token entropy of each rollout at its first forward pass, [N]. Without a pass it is NaN."""
    token = np.full(len(data.behaviour), np.nan)
    for at, entropy in reversed(list(zip(trace.tokens, trace.entropy, strict=True))):
        token[at.cpu().numpy()] = entropy.double().cpu().numpy()
    if not len(data.group):
        return np.zeros(0)
    return np.asarray(np.add.reduceat(token, data.action_offset[:-1]) / data.lengths, dtype=np.float64)
