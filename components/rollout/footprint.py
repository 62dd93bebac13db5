"""How much memory sampling needs, by cause. It is computed from sizes alone, without weights and without torch.

`transformers` counts the loaded model, the weights laid out for decoding, the keys and values of all full slots, one pass over
prompts, the logits of a step, and what the host records per sample. `vllm` counts its own copy of the weights, the cache, the
activations and logits of its profile run, and its graphs. A column is one position of a row, which holds a prompt and its answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.components.architecture import Architecture

PREFILL_TOKENS = 8192
"""Prompt tokens that one pass reads."""
NOTED_BYTES = 28
"""Bytes on the host per sample and position: a uniform number, a token, a log-probability, and the making of the uniforms."""
FIXED_BYTES = 2**28
"""Bytes of libraries and of memory that is lost to fragmentation. This number was measured on a CPU."""
VLLM_GRAPHS = 2**31
"""Bytes of vLLM's captured graphs and workspaces. This number is assumed, not measured."""


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
        """The sum of all causes."""
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
    """What one call of the engine samples: `samples` in all, `rows` of them at once, for the prompts of `groups` groups.

    A row has at most `prompt` tokens of prompt and `new` tokens of answer.
    """

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
    """Return the footprint of the `transformers` engine.

    `stored`, `word` and `head` are bytes per number: in the loaded model, in computation, and in the output head.
    """
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
    """Return the footprint of vLLM with room for `work.rows` full rows. Its sampler holds the float32 logits of a step twice."""
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
    """Return the bytes that one prompt token needs while prompts are read: keys, values, and the widest tensors of a layer."""
    width = 4 * model.hidden + 3 * model.intermediate + (model.heads + 2 * model.kv_heads) * model.head_dim
    return model.cache_bytes(word) + width * word
