"""From token ids to log-probabilities of action tokens.

    token ids [B, W] -> trunk -> hidden states [B, W, H] -> only action positions [m, H] -> head -> log-probabilities [m]

The head runs on action positions only and in tiles, so the logits of a whole batch never exist at once.
Shapes: B rows of width W, m action tokens, H hidden width.
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
"""The model structures that passed `check_forward` in this process, each with its number type, device and layout."""
GATHERED = "instar_score"
"""Name of a method that a model in shards has (`parallel.shard`): it gathers the parameters and calls `compute`."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Of each action token: log-probability [m], entropy [m], hidden state [m, H]."""

    logp: Tensor
    entropy: Tensor
    hidden: Tensor


EAGER_WIDTH = 128
"""Rows up to this width use plain attention in bfloat16 on a CPU, because there the backward of the fused kernel is slow.

Measured on SmolLM2-135M, forward and backward with one thread (AVX-512), the time of plain over that of fused attention:
0.70 to 0.83 at width 40, 0.86 at 82 with a mask, 1.06 to 1.11 at 256.
"""
_LOADED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""The attention that a model was loaded with, if `attend` has changed it."""


def attend(model: Any, width: int) -> str:
    """Set the fastest attention for rows of `width` and return its name: `eager`, or the one that the model was loaded with.

    It stays set after the pass, because backward may compute the layers again. `as_loaded` undoes it.
    """
    now = str(model.config._attn_implementation)
    loaded = _LOADED.setdefault(model, now)
    small = model.dtype == torch.bfloat16 and model.device.type == "cpu" and width <= EAGER_WIDTH
    if (kind := "eager" if small else loaded) != now:
        model.set_attn_implementation(kind)
    return kind


def as_loaded(model: Any) -> None:
    """Set the attention that the model was loaded with, so that other users of the model compute what they did before."""
    loaded = _LOADED.pop(model, None)
    if loaded is not None and loaded != model.config._attn_implementation:
        model.set_attn_implementation(loaded)


def trunk(
    model: Any,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Return the hidden states behind the final layer, [B, W, H], in the model's own number type."""
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
    """Return log-probabilities, entropies and hidden states of a micro-batch's action tokens.

    The micro-batch must be on the model's device. The results have a gradient, unless gradients are off.
    """
    gathered = getattr(model, GATHERED, None)
    if gathered is not None:
        logp, entropy, hidden = gathered(micro, config)
        return Scored(logp=logp, entropy=entropy, hidden=hidden)
    return compute(model, micro, config)


def compute(model: Any, micro: Micro, config: PolicyGradientConfig) -> Scored:
    """Do the same for a model whose parameters are whole in this process."""
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
    """Raise `ConfigError` unless trunk and head give the log-probabilities that the model itself gives for `rows`.

    Both the plain and the chosen layout are compared. This finds models that look to the right, models that ignore a 4-d mask,
    and models that scale or cap their logits (`_alone`). It is a property of the model's structure, so `resident` remembers
    the structures that passed.

    The mask of a packed row knows no sliding window. A rollout that is as long as the window is refused there.
    """
    window = sliding_window(model.config)
    if config.packing != "none" and window is not None and data.widths[data.valid].max(initial=0) >= window:
        raise ConfigError(
            expected=f"rollouts shorter than the model's sliding window of {window} tokens, or update.packing=none",
            found=f"packing={config.packing} and {int(data.widths[data.valid].max())} tokens",
            where="update.packing",
            action="set update.packing=none",
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
    """Return the width of the model's sliding window, if any of its layers has one."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"]
    return int(window) if window and "sliding_attention" in kinds else None


def _alone(model: Any, data: UpdateBatch, row: int) -> Tensor:
    """Return one rollout's log-probabilities as the model itself computes them, with nothing else in the batch.

    If the model changes its logits after the head, raise `ConfigError`. The two are compared bit by bit, because a cap hardly
    moves logits that are small.
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
            expected="a model whose logits are what its head gives",
            found=f"{type(model).__name__}, which scales, caps or masks them afterwards",
            where="update.policy",
            action="use another model: this update would compute other probabilities than the sampler",
        )
    logp: Tensor = logits[at - 1].double().log_softmax(-1).gather(1, ids[at][:, None]).squeeze(1)
    return logp


def _agree(ours: Tensor, theirs: Tensor, config: PolicyGradientConfig, layout: str) -> None:
    """Raise `ConfigError` if two computations of the same log-probabilities differ by more than rounding."""
    tolerance = 0.5 if config.dtype == "bfloat16" else 1e-2
    if not bool(torch.isfinite(theirs).all()):
        raise NumericsError(
            expected="finite log-probabilities",
            found="some that are not",
            where="update.policy",
            action="the weights are broken: go back to an earlier policy",
        )
    gap = float((ours.double() - theirs).abs().max())
    if not gap <= tolerance:
        raise ConfigError(
            expected=f"the model's own log-probabilities with packing={layout}",
            found=f"a difference of {gap:.3g}",
            where="update.packing",
            action="set update.packing=none; if they still differ, the model changes its logits: use another model",
        )
