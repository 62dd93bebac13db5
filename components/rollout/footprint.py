"""What sampling holds in memory, by cause, from sizes alone: no weights, no torch. C columns of a row are prompt and answer.

`transformers` counts the loaded model, the weights laid out for decoding, keys and values of all slots at their full
columns, one pass over prompts, logits of a step, and what the host notes per sample. `vllm` counts its own copy of the
weights, the cache, the profile run's activations and logits, and its graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.components.architecture import Architecture

PREFILL_TOKENS = 8192
"""Prompt tokens of one pass."""
NOTED_BYTES = 28
"""Per sample and position on the host: a uniform, a token, a log-probability, and what making the uniforms takes."""
FIXED_BYTES = 2**28
"""Libraries and fragments, beside what is counted; measured on a CPU."""
VLLM_GRAPHS = 2**31
"""Captured graphs and workspaces of vLLM, beside the profile run; assumed."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes by cause while rows are decoded."""

    model_bytes: int
    weights_bytes: int
    cache_bytes: int
    prefill_bytes: int
    logits_bytes: int
    notes_bytes: int
    fixed_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Everything at once."""
        return (
            self.model_bytes
            + self.weights_bytes
            + self.cache_bytes
            + self.prefill_bytes
            + self.logits_bytes
            + self.notes_bytes
            + self.fixed_bytes
        )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is sampled: `rows` at once, of `samples` in one call of the engine, `prompt` tokens and `new` tokens at most."""

    rows: int
    samples: int
    groups: int
    prompt: int
    new: int

    @property
    def columns(self) -> int:
        """Columns of a full row."""
        return self.prompt + self.new


def cache_bytes(model: Architecture, rows: int, columns: int, word: int) -> int:
    """Return the bytes of keys and values of `rows` full rows."""
    return rows * columns * model.cache_bytes(word)


def transformers(model: Architecture, work: Sampling, stored: int, word: int, head: int) -> Footprint:
    """Return the footprint of the engine of this package. Bytes of a number: as `stored`, as computed, of the head."""
    rows, prompts = min(work.rows, work.samples), min(work.groups, max(1, PREFILL_TOKENS // max(work.prompt, 1)))
    embedding = 0 if stored == word else model.head_parameters * word
    heads = model.head_parameters * head
    return Footprint(
        model_bytes=model.parameters * stored,
        weights_bytes=model.layers * model.layer_parameters * word + embedding + heads,
        cache_bytes=cache_bytes(model, rows, work.columns, word),
        prefill_bytes=prompts * work.prompt * prefill_bytes_per_token(model, word),
        logits_bytes=2 * rows * model.vocab * head,
        notes_bytes=work.samples * work.new * NOTED_BYTES,
        fixed_bytes=FIXED_BYTES,
    )


def vllm(model: Architecture, work: Sampling, word: int) -> Footprint:
    """Return the footprint of vLLM with room for `work.rows` full rows; its sampler holds float32 logits of a step twice."""
    return Footprint(
        model_bytes=0,
        weights_bytes=model.parameters * word,
        cache_bytes=cache_bytes(model, work.rows, work.columns, word),
        prefill_bytes=PREFILL_TOKENS * prefill_bytes_per_token(model, word),
        logits_bytes=2 * work.rows * model.vocab * 4,
        notes_bytes=0,
        fixed_bytes=VLLM_GRAPHS,
    )


def prefill_bytes_per_token(model: Architecture, word: int) -> int:
    """Return what one prompt token holds while prompts are read: its keys and values, and the widest tensors of one layer."""
    width = 4 * model.hidden + 3 * model.intermediate + (model.heads + 2 * model.kv_heads) * model.head_dim
    return model.cache_bytes(word) + width * word
