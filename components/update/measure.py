"""Log-probabilities and values without gradient: what the policy and the reference say before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from instar.components.update.batching import Micro
from instar.components.update.critic import predicted_values
from instar.components.update.forward import score
from instar.components.update.learner import Learner, master_dtype
from instar.components.update.update_batch import UpdateBatch

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig


@dataclass(frozen=True, kw_only=True)
class Before:
    """What models say of every action token before the update, [M]. A token that no pass covered is NaN."""

    logp: Tensor
    """log pi_old; all NaN if the policy was not asked"""
    values: Tensor | None
    """the critic's values, if there is one"""
    ref: Tensor | None
    """log pi_ref, if there is a KL term"""


@torch.no_grad()
def measure(
    learner: Learner,
    data: UpdateBatch,
    micros: list[Micro],
    config: PolicyGradientConfig,
    reference: Any,
    *,
    with_policy: bool = True,
    with_reference: bool = True,
) -> Before:
    """Run the forward passes `micros` without gradient and return what they give.

    `with_policy` asks the policy and its critic. `with_reference` asks the reference, if a KL term needs it.
    """
    logp, values, ref = _unknown(learner, data), None, None
    if with_policy:
        own_logp, own_values = [], []
        for micro, counts in learner.ranks.share(micros):
            out = score(learner.compute, micro.to(learner.device), config)
            own_logp += [out.logp] if counts else []
            if learner.critic is not None:
                judged = predicted_values(learner.critic, out.hidden)
                own_values += [judged] if counts else []
        _fill(learner, logp, own_logp, micros)
        if learner.critic is not None:
            values = _unknown(learner, data)
            _fill(learner, values, own_values, micros)
    if with_reference and config.kl.place != "none":
        ref = _unknown(learner, data)
        shared = learner.ranks.share(micros)
        passes = [(score(reference, micro.to(learner.device), config).logp, counts) for micro, counts in shared]
        _fill(learner, ref, [ref_logp for ref_logp, counts in passes if counts], micros)
    return Before(logp=logp, values=values, ref=ref)


def _unknown(learner: Learner, data: UpdateBatch) -> Tensor:
    """Return NaN for every action token, [M]."""
    return torch.full((len(data.behaviour),), torch.nan, dtype=master_dtype(learner.config), device=learner.device)


def _fill(learner: Learner, values: Tensor, own: list[Tensor], micros: list[Micro]) -> None:
    """Write what the passes of all processes gave into `values` [M]; `own` are those of this process."""
    everywhere = learner.ranks.everywhere(own, micros, values.dtype, learner.device)
    for micro, of_pass in zip(micros, everywhere, strict=True):
        values[micro.tokens.to(values.device)] = of_pass.to(values.dtype)
