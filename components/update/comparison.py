"""Two comparisons that stop an update before its first step.

`check_model`: this package computes log-probabilities its own way (shared prompts, logits in tiles). They must be those
that the model computes when it is simply called.
`before_training` and `in_step`: the trainer's log-probabilities of the sampled tokens must be those that the sampler
recorded. They are compared once, with the old policy. If old log-probabilities were measured before the training, they are
compared then. Otherwise the only optimiser step computes them, and they are compared before its gradient is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from instar.components.update import mismatch
from instar.components.update.bad_batch import Dump, saved_on_error
from instar.components.update.batching import Micro
from instar.components.update.forward import check_forward
from instar.components.update.learner import Learner, master_dtype
from instar.components.update.measure import measure
from instar.components.update.per_token import PerToken
from instar.components.update.trace import Trace
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

Pair = tuple[Tensor, Tensor]
"""What trainer and sampler say of the tokens of one micro-batch, two [m]."""


def check_model(
    learner: Learner,
    data: UpdateBatch,
    micros: list[Micro],
    config: PolicyGradientConfig,
    ctx: Context,
    dump: Dump,
) -> None:
    """Compare our log-probabilities of up to three short rollouts with the model's own (`forward.check_forward`)."""
    if not micros:
        return
    rows = micros[-1].rows[:3].numpy()
    with saved_on_error(micros[-1:], dump):
        check_forward(learner.compute, data, rows, config, ctx.resident)


def before_training(
    learner: Learner,
    data: UpdateBatch,
    micros: list[Micro],
    tokens: PerToken,
    config: PolicyGradientConfig,
    trace: Trace,
    dump: Dump,
) -> None:
    """Compare trainer and sampler on the passes `micros`. Old log-probabilities that are not known yet are measured."""
    old = tokens.old
    if old is None:
        old = measure(learner, data, micros, config, None, with_reference=False).logp
    if micros:
        at = torch.cat([micro.tokens for micro in micros]).to(learner.device)
        _compare([(old[at], tokens.sampler[at])], micros, tokens, config, trace, dump)


def in_step(
    learner: Learner,
    own: Sequence[Pair],
    micros: Sequence[Micro],
    tokens: PerToken,
    config: PolicyGradientConfig,
    trace: Trace,
    dump: Dump,
) -> None:
    """Compare trainer and sampler on the passes of the step that is being taken; `own` are those of this process."""
    dtype, device = master_dtype(config), learner.device
    sides = [learner.ranks.everywhere([pair[i] for pair in own], micros, dtype, device) for i in (0, 1)]
    _compare(list(zip(*sides, strict=True)), micros, tokens, config, trace, dump)


def _compare(
    pairs: list[Pair],
    micros: Sequence[Micro],
    tokens: PerToken,
    config: PolicyGradientConfig,
    trace: Trace,
    dump: Dump,
) -> None:
    """Write the gap between trainer and sampler into the trace, and raise `NumericsError` if it is too large."""
    limits, old, sampler = mismatch.limits(config), *(torch.cat(side) for side in zip(*pairs, strict=True))
    at = torch.cat([micro.tokens for micro in micros]).to(tokens.prompt.device)
    now = tokens.current[at]
    trace.gap = mismatch.measure(limits, old[now], sampler[now], tokens.prompt[at][now])
    trace.gap |= mismatch.measure_older(config.mismatch, old[~now], sampler[~now])
    with saved_on_error(micros, dump):
        mismatch.alarm(limits, trace.gap, "update.mismatch", rounded=config.dtype == "bfloat16")
