"""From token ids to log-probabilities of action tokens: the model's trunk, then the head on action positions alone.

Shapes: B rows of width W, m action tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instar.components.update.batching import Micro
from instar.components.update.config import Config
from instar.errors import ConfigError
from instar.kernels.logprob.dispatch import selected_logprob


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Per action token: log-probability [m], entropy [m], hidden state [m, H]."""

    logp: Tensor
    entropy: Tensor
    hidden: Tensor


def trunk(model: Any, input_ids: Tensor, position_ids: Tensor | None, config: Config) -> Tensor:
    """Return the last hidden states, [B, W, H]."""
    with torch.autocast(input_ids.device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
        hidden: Tensor = model.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False
        ).last_hidden_state
    return hidden


def score(model: Any, micro: Micro, config: Config) -> Scored:
    """Return log-probabilities and entropies of a micro-batch's action tokens, with gradient where it is enabled."""
    hidden = trunk(model, micro.input_ids, micro.position_ids, config)
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


def check_forward(model: Any, micro: Micro, config: Config) -> None:
    """Raise `ConfigError` unless trunk and head reproduce the model's own logits, and packing does not mix sequences.

    Models that scale or cap their logits after the head, or look to the right, are found here on a few tokens.
    """
    ids = micro.input_ids[:1, :6]
    with torch.no_grad():
        hidden = trunk(model, ids, None, config)
        head = model.get_output_embeddings()
        ours = torch.nn.functional.linear(hidden.to(head.weight.dtype), head.weight, head.bias)
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
            theirs = model(input_ids=ids, use_cache=False).logits
        _agree(ours, theirs, config, "logits that are the head's product with the last hidden state", "model.logits")
        short = trunk(model, ids[:, : max(1, ids.shape[1] // 2)], None, config)
        _agree(short, hidden[:, : short.shape[1]], config, "hidden states that ignore tokens to the right", "model.attention")
        if config.packing:
            places = torch.arange(ids.shape[1], device=ids.device)
            twice = trunk(model, torch.cat([ids, ids], 1), torch.cat([places, places])[None], config)
            _agree(twice[:, ids.shape[1] :], hidden, config, "packed sequences that do not see each other", "update.packing")


def _agree(ours: Tensor, theirs: Tensor, config: Config, expected: str, where: str) -> None:
    tolerance = 0.05 if config.dtype == "bfloat16" else 1e-3
    gap = float((ours.double() - theirs.double()).abs().max()) / max(1.0, float(theirs.double().abs().max()))
    if not gap <= tolerance:
        raise ConfigError(
            expected=expected,
            found=f"relative difference {gap:.3g}",
            where=where,
            action="this architecture needs its own forward pass; use another model or switch the option off",
        )
