"""What the transformers engine refuses: weights that were written or train, and models it would serve wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instar.components.rollout.engine import Request
from instar.errors import EngineError

_ATTENTION = {"full_attention", "sliding_attention"}
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")  # rotation angles follow the longest row of a batch


def write_count(model: Any) -> int:
    """Return a number that grows with every in-place write to a parameter."""
    return sum(int(p._version) for p in model.parameters())


def check_weights(model: Any, count: int, digest: str) -> None:
    """Raise `EngineError` when the model trains, or was written since `count` was taken for policy `digest`."""
    if model.training:
        raise _refuse("a model in evaluation mode", "training mode: dropout would be sampled", "call model.eval()")
    if write_count(model) != count:
        raise _refuse(
            f"the weights loaded for policy {digest}",
            "weights that were written since",
            "open an engine for the new policy",
        )


def check_requests(requests: Sequence[Request], max_new_tokens: int, config: Any, vocab_size: int) -> None:
    """Raise `EngineError` for ids outside of the vocabulary and for lengths or layers the engine cannot hold."""
    for request in requests:
        ids = request.prompt_ids
        if not ids or min(ids) < 0 or max(ids) >= vocab_size:
            raise _refuse(
                f"prompt ids in 0..{vocab_size - 1}",
                f"{f'{min(ids)} to {max(ids)}' if ids else 'no token'} in request {request.request_id}",
                "encode the prompt with the tokenizer of this policy",
            )
    _check_length(max((len(r.prompt_ids) for r in requests), default=0) + max_new_tokens, config)


def _check_length(total: int, config: Any) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and total > longest:
        raise _refuse(f"at most {longest} positions", f"{total}", "shorten prompts or rollout.max_new_tokens")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds - _ATTENTION or (window is not None and total >= window):
        raise _refuse(
            "attention over every position", f"layers {sorted(kinds)}, window {window}", "shorten, or change the engine"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _BATCH_DEPENDENT_ROPE:
        raise _refuse("positions encoded row by row", f"rope_type {rope['rope_type']}", "use another model")


def _refuse(expected: str, found: str, action: str) -> EngineError:
    return EngineError(expected=expected, found=found, where="rollout engine", action=action)
