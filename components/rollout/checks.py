"""What the transformers engine refuses to serve.

It refuses weights that changed after they were loaded, models in training mode, prompts that do not fit, and models that it would
decode wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from instar.components.rollout.engine import Request, Sample
from instar.errors import EngineError
from instar.resident import Kind, Resident

_DECODES: Kind[frozenset[tuple[str, ...]]] = Kind("rollout/decodes")
"""The model structures that have passed `check_decoding` in this process, each with its device and forward pass."""
_ATTENTION = {"full_attention", "sliding_attention"}
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")  # their rotation angles depend on the longest row of a batch


def write_count(model: Any) -> int:
    """Return a count that grows with every in-place write to a parameter."""
    return sum(int(p._version) for p in model.parameters())


def check_weights(model: Any, count: int, digest: str) -> None:
    """Raise `EngineError` when the model is in training mode, or when its weights changed since `count` was taken."""
    if model.training:
        raise _refuse(
            "a model in evaluation mode", "training mode, in which dropout changes the samples", "call model.eval()"
        )
    if write_count(model) != count:
        raise _refuse(
            f"the weights loaded for policy {digest}",
            "weights that were changed after loading",
            "open an engine for the new policy",
        )


def check_requests(requests: Sequence[Request], max_new_tokens: int, config: Any, vocab_size: int) -> None:
    """Raise `EngineError` for ids outside the vocabulary, for rows that are too long, and for layers that are not supported."""
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
        raise _refuse(
            f"at most {longest} positions for a prompt and its answer",
            f"{total}",
            "shorten the prompts or lower rollout.max_new_tokens",
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's name for a window
        window = config.window_size
    if kinds - _ATTENTION or (window is not None and total >= window):
        raise _refuse(
            "attention over every position",
            f"layers {sorted(kinds)}, window {window}, for {total} positions",
            "shorten prompts and answers, or choose another rollout.engine.name",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _BATCH_DEPENDENT_ROPE:
        raise _refuse(
            "a position encoding that does not depend on the other rows of a batch",
            f"rope_type {rope['rope_type']}",
            "use another model",
        )


def check_decoding(engine: Any, model: Any, resident: Resident) -> None:
    """Raise `EngineError` unless decoding gives the same log-probabilities as the model's own pass over each whole sequence.

    The check decodes two prompts of different lengths side by side. Some families fail it: those that place keys by other means
    than position ids (for example ALiBi), and those that attend to later tokens. The outcome depends on the structure of the
    model only, so `resident` remembers which structures passed in this process.
    """
    key = (type(model).__name__, model.config.to_json_string(), str(engine.forward.device), engine.forward.name)
    passed = resident.get(_DECODES) or frozenset()
    if key in passed:
        return
    prompts = [[i % engine.vocab_size for i in range(first, first + n)] for first, n in ((1, 2), (5, 7))]
    requests = [Request(request_id="check", prompt_ids=ids, seeds=[len(ids)]) for ids in prompts]
    name = type(model).__name__
    try:
        groups = engine.sample(requests, max_new_tokens=4, temperature=1.0)
        pairs = [(prompt, sample) for prompt, (sample,) in zip(prompts, groups, strict=True)]
        gaps = torch.cat([_gap(model, prompt, sample) for prompt, sample in pairs])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise _refuse(
            "a model that decodes with a key-value cache", f"{name}, which failed with {what}", "use another model"
        ) from error
    # The batcher reports NaN. In bfloat16, with its 8 bits of precision, a single token may differ by tenths: take the median.
    exact = engine.precision == model.dtype == torch.float32
    if float(gaps.max() if exact else gaps.median()) > (1e-2 if exact else 0.25):
        raise _refuse(
            "log-probabilities of the model's own forward pass",
            f"a difference of up to {float(gaps.max()):.3g} in {name}",
            "use another model: this one places keys by other means than position ids, or attends to later tokens",
        )
    resident.put(_DECODES, None, passed | {key})


def _gap(model: Any, prompt: list[int], sample: Sample) -> torch.Tensor:
    """Return, per token, how far the recorded log-probability is from that of one pass over the sequence alone."""
    ids = torch.tensor([[*prompt, *sample.token_ids]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logp = logits.double().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    gap: torch.Tensor = (logp.cpu() - torch.tensor(sample.logprobs, dtype=torch.float64)).abs()
    return gap


def _refuse(expected: str, found: str, action: str) -> EngineError:
    return EngineError(expected=expected, found=found, where="rollout engine", action=action)
