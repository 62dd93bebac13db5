"""From token ids to log-probabilities of action tokens: the model's trunk, then the head on action positions alone.

Shapes: B rows of width W, m action tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from instar.components.policy_io import logits_dtype
from instar.components.update.advantages import Ints
from instar.components.update.batching import Micro, mask, micro_batches
from instar.components.update.update_batch import UpdateBatch
from instar.errors import ConfigError, NumericsError
from instar.kernels.logprob.dispatch import selected_logprob
from instar.resident import Kind, Resident

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

_AGREES: Kind[frozenset[tuple[str, ...]]] = Kind("update/agrees")
"""The structures, with type, device and layout, that have passed `check_forward` in this process."""
GATHERED = "instar_score"
"""Method of a model whose parameters lie in shards (`parallel.shard`): `compute` with the parameters gathered."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Per action token: log-probability [m], entropy [m], hidden state [m, H]."""

    logp: Tensor
    entropy: Tensor
    hidden: Tensor


EAGER_WIDTH = 128
"""Rows up to this wide attend by plain products, in bfloat16 on a CPU, where the fused kernel's backward is slow.

Measured on SmolLM2-135M, forward and backward with one thread (AVX-512), plain over fused: 0.70 to 0.83 at width 40, 0.86 at
82 with a mask, 1.06 to 1.11 at 256.
"""
_LOADED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""The attention a model was loaded with, where `attend` has changed it."""


def attend(model: Any, width: int) -> str:
    """Set and return the fastest attention for rows of `width`: `eager`, or the one the model was loaded with.

    It stays set, because backward may compute the layers again; `as_loaded` takes it back.
    """
    now = str(model.config._attn_implementation)
    loaded = _LOADED.setdefault(model, now)
    small = model.dtype == torch.bfloat16 and model.device.type == "cpu" and width <= EAGER_WIDTH
    if (kind := "eager" if small else loaded) != now:
        model.set_attn_implementation(kind)
    return kind


def as_loaded(model: Any) -> None:
    """Give the model back its own attention, so that whoever shares it computes what it always did."""
    loaded = _LOADED.pop(model, None)
    if loaded is not None and loaded != model.config._attn_implementation:
        model.set_attn_implementation(loaded)


def trunk(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states, [B, W, H], in the model's own type."""
    kind = attend(model, input_ids.shape[1])
    if allowed is not None and kind == "eager":  # plain attention adds its mask
        allowed = torch.zeros(allowed.shape, dtype=model.dtype, device=allowed.device).masked_fill_(
            ~allowed, torch.finfo(model.dtype).min
        )
    hidden: Tensor = model.base_model(
        input_ids=input_ids, position_ids=position_ids, attention_mask=allowed, use_cache=False
    ).last_hidden_state
    return hidden


def score(model: Any, micro: Micro, config: PolicyGradientConfig) -> Scored:
    """Return log-probabilities and entropies of a micro-batch's action tokens, with gradient where it is enabled.

    The micro-batch is on the model's device.
    """
    gathered = getattr(model, GATHERED, None)
    if gathered is not None:
        logp, entropy, hidden = gathered(micro, config)
        return Scored(logp=logp, entropy=entropy, hidden=hidden)
    return compute(model, micro, config)


def compute(model: Any, micro: Micro, config: PolicyGradientConfig) -> Scored:
    """Return the same of a model whose parameters are whole."""
    allowed = None if micro.seen is None else mask(micro.seen)
    hidden = trunk(model, micro.input_ids, micro.position_ids, allowed)
    picked = hidden.flatten(0, 1).index_select(0, micro.head_at)
    head = model.get_output_embeddings()
    kind = logits_dtype(picked.dtype, picked.device.type)
    logp, entropy = selected_logprob(
        picked.to(kind),
        head.weight.to(kind),
        None if head.bias is None else head.bias.to(kind),
        micro.targets,
        chunk=config.logprob_chunk,
        entropy_grad=config.entropy_coef != 0,
    )
    return Scored(logp=logp, entropy=entropy, hidden=picked)


def check_forward(model: Any, data: UpdateBatch, rows: Ints, config: PolicyGradientConfig, resident: Resident) -> None:
    """Raise `ConfigError` unless trunk and head give the model's own log-probabilities on `rows`, in the chosen layout.

    Models that look to the right or ignore a 4-d mask are found here. That is a property of the structure, so `resident` remembers
    what passed in this process. Scaled or capped logits are found whatever their size (`_alone`): while they are small, a cap
    hardly moves them. A packed mask knows no sliding window, so rows as wide as one are refused.
    """
    window = sliding_window(model.config)
    if config.packing != "none" and window is not None and data.widths[data.valid].max(initial=0) >= window:
        raise ConfigError(
            expected=f"rollouts shorter than the model's sliding window of {window} tokens, or packing=none",
            found=f"packing={config.packing} and {int(data.widths[data.valid].max())} tokens",
            where="update.packing",
            action="set packing=none",
        )
    device = str(model.device)
    passed = resident.get(_AGREES) or frozenset()
    structure = (type(model).__name__, model.config.to_json_string(), str(model.dtype), device)
    with torch.no_grad():
        for layout in dict.fromkeys(("none", config.packing)):
            if (*structure, layout) in passed:
                continue
            (micro,) = micro_batches(data, rows, int(data.widths[rows].sum()) * len(rows), layout)
            ours = score(model, micro.to(device), config).logp
            theirs = torch.cat([_alone(model, data, row) for row in micro.rows.tolist()])
            _agree(ours, theirs, config, layout)
            passed |= {(*structure, layout)}
            resident.put(_AGREES, None, passed)


def sliding_window(config: Any) -> int | None:
    """Return the width of the window that some layer attends within, from a model's configuration."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    return int(window) if window and "sliding_attention" in kinds else None


def _alone(model: Any, data: UpdateBatch, row: int) -> Tensor:
    """Return one rollout's log-probabilities from the model's own logits over nothing but its tokens.

    Raises `ConfigError` when the logits are not what the head gave, bit for bit.
    """
    start, end = int(data.token_offset[row]), int(data.token_offset[row + 1])
    ids = torch.from_numpy(data.tokens[start:end].astype(np.int64)).to(model.device)
    at = torch.from_numpy(data.action_at[data.action_offset[row] : data.action_offset[row + 1]] - start).to(
        model.device
    )
    raw: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda module, inputs, out: raw.append(out))
    try:
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    finally:
        hook.remove()
    if raw and not torch.allclose(raw[-1][0].to(logits.dtype), logits, rtol=0, atol=0, equal_nan=True):
        raise ConfigError(
            expected="logits as the head gives them",
            found=f"{type(model).__name__}, which scales, caps or masks them afterwards",
            where="update.policy",
            action="use another model: the loss would be that of other probabilities than those sampled from",
        )
    logp: Tensor = logits[at - 1].double().log_softmax(-1).gather(1, ids[at][:, None]).squeeze(1)
    return logp


def _agree(ours: Tensor, theirs: Tensor, config: PolicyGradientConfig, layout: str) -> None:
    tolerance = 0.5 if config.dtype == "bfloat16" else 1e-2
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
