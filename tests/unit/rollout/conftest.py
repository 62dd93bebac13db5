"""Tiny models of several architectures, prompts, a character tokenizer, policy folders and the stand-in for vLLM."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from instar.artifact import Policy
from instar.components.rollout.engine import Request
from instar.kernels.decode import cpp
from support import fake_vllm

VOCAB = 32
ALPHABET = "0123456789+-= abcdefghijklmnop"


def build(kind: str, seed: int = 0) -> Any:
    """Return a random tiny model in eval mode, with logits varied enough to tell tokens apart."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "tie_word_embeddings": False}
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "head_dim": 8,
    } | ids
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids)
        )
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    elif kind == "llama-wide":  # wide enough for packed weights and the C++ kernel; three queries share a key
        wide: dict[str, Any] = shape | {
            "hidden_size": 192,
            "intermediate_size": 384,
            "head_dim": 32,
            "num_attention_heads": 6,
            "vocab_size": 1003,
            "tie_word_embeddings": True,
        }
        model = LlamaForCausalLM(LlamaConfig(**wide))
    else:
        attention = "eager" if kind == "llama-eager" else "sdpa"
        model = LlamaForCausalLM._from_config(LlamaConfig(**shape), attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * (0.1 if kind == "llama-wide" else 0.3))
            else:  # biases and scales, so that a forgotten one shows
                parameter.add_(noise * 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Build the C++ kernel into a cache of its own and use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("INSTAR_DECODE_CPP", raising=False)
        cpp.LIBRARY.build()
        yield
    cpp._function.cache_clear()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Return the builder of models by kind and seed."""
    return build


@pytest.fixture(scope="session")
def prompts() -> Callable[..., list[Request]]:
    """Return a maker of requests from prompt lengths; every sample has a seed of its own."""

    def make(lengths: list[int], samples: int, seed: int = 0) -> list[Request]:
        generator = torch.Generator().manual_seed(seed)
        return [
            Request(
                request_id=f"r{i}",
                prompt_ids=torch.randint(2, VOCAB, (n,), generator=generator).tolist(),
                seeds=[1000 * i + j for j in range(samples)],
            )
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.fixture(scope="session")
def full_logits() -> Callable[[Any, list[int]], torch.Tensor]:
    """Return the reference: float32 logits [T, V] of one unpadded forward pass without a cache."""

    def forward(model: Any, ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

    return forward


def tokenizer() -> Any:
    """Return a character tokenizer with `<pad>` 0 and `<eos>` 1."""
    vocab = {"<pad>": 0, "<eos>": 1} | {c: i + 2 for i, c in enumerate(ALPHABET)}
    made: Any = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.add_special_tokens(["<pad>", "<eos>"])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Policy]:
    """Return a writer of committed policy folders: a model, its config, and optionally a changed tokenizer."""

    def write(model: Any, digest: str, change: Callable[[Any], None] | None = None, **config: Any) -> Policy:
        target = tmp_path / digest
        model.save_pretrained(target)
        made = tokenizer()
        if change is not None:
            change(made)
        made.save(str(target / "tokenizer.json"))
        written = json.loads((target / "config.json").read_text()) | {"pad_token_id": 0, "eos_token_id": 1} | config
        (target / "config.json").write_text(json.dumps(written))
        (target / "generation_config.json").unlink(missing_ok=True)
        return Policy(target, digest)

    return write


@pytest.fixture
def fused(folder: Any) -> Callable[..., Policy]:
    """Return a writer of policies whose tokenizer joins characters without spaces."""

    def write(model: Any, digest: str, **config: Any) -> Policy:
        from tokenizers import decoders

        return folder(model, digest, lambda made: setattr(made, "decoder", decoders.Fuse()), **config)  # type: ignore[no-any-return]

    return write


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that installs the stand-in with faults and returns the module."""

    def install(*faults: str) -> Any:
        made = fake_vllm.modules(*faults)
        for name, module in made.items():
            monkeypatch.setitem(sys.modules, name, module)
        return made["vllm"]

    return install
