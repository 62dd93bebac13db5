"""The sizes of a language model, without its weights. They come from a table of known models, or from a `config.json`.

The model is a decoder of the Llama family, with gated feed-forward layers, root-mean-square norms, and grouped keys and values. The
sizes alone give the number of its parameters and the bytes of its key-value cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a decoder. `tied` says that the output head is the embedding matrix.

    `biased` says that queries, keys and values have biases. `normed` says that queries and keys are normed in every head.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    biased: bool = False
    normed: bool = False

    @property
    def layer_parameters(self) -> int:
        """Number of weights of one layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * queries + 2 * self.hidden * keys
        attention += (queries + 2 * keys) * self.biased + 2 * self.head_dim * self.normed
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def head_parameters(self) -> int:
        """Number of weights of the output matrix."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """Number of all weights. A tied matrix counts once."""
        ends = self.head_parameters * (1 if self.tied else 2)
        return ends + self.layers * self.layer_parameters + self.hidden

    def cache_bytes(self, word: int) -> int:
        """Return the bytes of keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * word


def _qwen(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int, tied: bool
) -> Architecture:
    return Architecture(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        vocab=vocab,
        tied=tied,
        biased=True,
    )


ARCHITECTURES: dict[str, Architecture] = {
    # From `config.json` of huggingface.co/Qwen/<name>, and table 1 of arXiv 2412.15115. The -Instruct models have the same sizes.
    "qwen2.5-0.5b": _qwen(896, 24, 14, 2, 4864, 151_936, tied=True),
    "qwen2.5-1.5b": _qwen(1536, 28, 12, 2, 8960, 151_936, tied=True),
    "qwen2.5-3b": _qwen(2048, 36, 16, 2, 11_008, 151_936, tied=True),
    "qwen2.5-7b": _qwen(3584, 28, 28, 4, 18_944, 152_064, tied=False),
    # From `config.json` of huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, and of the package that ships it.
    "smollm2-135m": Architecture(
        hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocab=49_152, tied=True
    ),
}
"""Name of a model -> its sizes. The name is in lower case, without the owner and without `-instruct`."""


def of_model(path: str) -> Architecture:
    """Return the sizes of the model at `path`.

    They come from the `config.json` in that folder. Without such a file, the last part of the path must be the name of a known
    model, for example `Qwen/Qwen2.5-0.5B`. Raises `ConfigError` when neither is the case.
    """
    record = Path(path) / "config.json"
    if record.is_file():
        return _read(record)
    name = Path(path).name.lower().removesuffix("-instruct")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            expected=f"a folder with a config.json, or a model whose sizes are known: {known}",
            found=path,
            where="dataset_prep.initial.path",
            action=f"give --model the folder of the downloaded checkpoint; {nearest(name, ARCHITECTURES)}",
        )
    return ARCHITECTURES[name]


def _read(file: Path) -> Architecture:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return of_record(record.get("text_config", record))
    except (OSError, ValueError, AttributeError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ConfigError(
            expected="the sizes of a decoder: hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size",
            found=f"{type(error).__name__}: {error}",
            where=str(file),
            action="use the folder of a causal language model in the format of transformers",
        ) from error


def of_record(record: Mapping[str, Any]) -> Architecture:
    """Return the sizes in a `config.json`. Raises `KeyError` for a missing size."""
    hidden, heads, kind = (
        int(record["hidden_size"]),
        int(record["num_attention_heads"]),
        str(record.get("model_type", "")),
    )
    architecture = Architecture(
        hidden=hidden,
        layers=int(record["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(record.get("num_key_value_heads") or heads),
        head_dim=int(record.get("head_dim") or hidden // heads),
        intermediate=int(record["intermediate_size"]),
        vocab=int(record["vocab_size"]),
        tied=bool(record.get("tie_word_embeddings", True)),
        biased=kind.startswith("qwen2") or bool(record.get("attention_bias")),
        normed=kind.startswith("qwen3"),
    )
    sizes = (
        architecture.hidden,
        architecture.layers,
        architecture.kv_heads,
        architecture.head_dim,
        architecture.intermediate,
        architecture.vocab,
    )
    if min(sizes) < 1:
        raise ValueError("a size below 1")
    return architecture
