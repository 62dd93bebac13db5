"""From token ids to log-probabilities of action tokens: the model's trunk, then the head on action positions alone.

Shapes: B rows of width W, m action tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instar.components.update.advantages import Ints
from instar.components.update.batching import Micro, micro_batches
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.experience import Experience
from instar.errors import ConfigError, NumericsError
from instar.kernels.logprob.dispatch import selected_logprob


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Per action token: log-probability [m], entropy [m], hidden state [m, H]."""

    logp: Tensor
    entropy: Tensor
    hidden: Tensor


def trunk(
    model: Any,
    input_ids: Tensor,
    config: PolicyGradientConfig,
    position_ids: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states, [B, W, H]."""
    with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
        hidden: Tensor = model.base_model(
            input_ids=input_ids, position_ids=position_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
    return hidden


def score(model: Any, micro: Micro, config: PolicyGradientConfig) -> Scored:
    """Return log-probabilities and entropies of a micro-batch's action tokens, with gradient where it is enabled."""
    hidden = trunk(model, micro.input_ids, config, micro.position_ids, micro.mask)
    picked = hidden.flatten(0, 1).index_select(0, micro.head_at)
    head = model.get_output_embeddings()
    kind = torch.bfloat16 if config.dtype == "bfloat16" else head.weight.dtype
    logp, entropy = selected_logprob(
        picked.to(kind),
        head.weight.to(kind),
        None if head.bias is None else head.bias.to(kind),
        micro.targets,
        chunk=config.logprob_chunk,
        entropy_grad=config.entropy_coef != 0,
    )
    return Scored(logp=logp, entropy=entropy, hidden=picked)


def check_forward(model: Any, data: Experience, rows: Ints, config: PolicyGradientConfig) -> None:
    """Raise `ConfigError` unless trunk and head give the model's own log-probabilities on `rows`, in the chosen layout.

    Models that scale or cap their logits after the head, look to the right, or ignore a 4-d mask are found here.
    """
    device = str(model.device)
    with torch.no_grad():
        for layout in dict.fromkeys(("none", config.packing)):
            (micro,) = micro_batches(data, rows, int(data.widths[rows].sum()) * len(rows), layout, device)
            ours = score(model, micro, config).logp
            theirs = torch.cat([_alone(model, data, row, config) for row in micro.rows.tolist()])
            _agree(ours, theirs, config, layout)


def _alone(model: Any, data: Experience, row: int, config: PolicyGradientConfig) -> Tensor:
    """Return one rollout's log-probabilities from the model's own logits over nothing but its tokens."""
    start, end = int(data.token_offset[row]), int(data.token_offset[row + 1])
    ids = torch.from_numpy(data.tokens[start:end].astype(np.int64)).to(model.device)
    at = torch.from_numpy(data.action_at[data.action_offset[row] : data.action_offset[row + 1]] - start).to(
        model.device
    )
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    logp: Tensor = logits[at - 1].double().log_softmax(-1).gather(1, ids[at][:, None]).squeeze(1)
    return logp


def _agree(ours: Tensor, theirs: Tensor, config: PolicyGradientConfig, layout: str) -> None:
    tolerance = 0.2 if config.dtype == "bfloat16" else 1e-2
    if not bool(torch.isfinite(theirs).all()):
        raise NumericsError(
            expected="finite log-probabilities",
            found="others",
            where="update.policy",
            action="the weights are broken: roll back",
        )
    gap = float((ours.double() - theirs).abs().max())
    if not gap <= tolerance:
        raise ConfigError(
            expected=f"the model's own log-probabilities with packing={layout}",
            found=f"a difference of {gap:.3g}",
            where="update.packing",
            action="set packing=none; if it differs there, the model changes its logits after the head: use another",
        )
