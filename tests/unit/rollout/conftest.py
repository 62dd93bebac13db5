"""Tiny models of three architectures, a character tokenizer, and a policy folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from instar.components.rollout.engine import Request

VOCAB = 32
EOS = 1


def build(kind: str, seed: int = 0, vocab: int = VOCAB) -> Any:
    """Return a random tiny model with peaked, varied logits."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape = {
        "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
    }  # fmt: skip
    ids = {"bos_token_id": 0, "eos_token_id": EOS, "pad_token_id": None, "tie_word_embeddings": False}
    if kind == "gpt2":
        config = GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ids)
        model: Any = GPT2LMHeadModel(config)
    elif kind == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**shape, **ids))
    else:
        model = LlamaForCausalLM._from_config(
            LlamaConfig(**shape, **ids), attn_implementation="eager" if kind == "llama-eager" else "sdpa"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.4 if "head" in name else 0.25))
    return model.eval()


def requests(lengths: list[int], samples: int, vocab: int = VOCAB, seed: int = 0) -> list[Request]:
    """Return prompts of the given lengths with distinct sample seeds."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Request(
            request_id=f"r{i}",
            prompt_ids=torch.randint(2, vocab, (n,), generator=generator).tolist(),
            seeds=[1000 * i + j for j in range(samples)],
        )
        for i, n in enumerate(lengths)
    ]


def full_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Return float32 logits [T, V] of one unpadded forward pass without cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def save_policy(folder: Path, model: Any, alphabet: str = "0123456789+-= abcdefghijklmnop") -> Path:
    """Write a policy folder: weights, config and a character tokenizer with ids `<pad>` 0 and `<eos>` 1."""
    model.save_pretrained(folder)
    vocab = {"<pad>": 0, "<eos>": 1} | {c: i + 2 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="session")
def model_of() -> Callable[[str], Any]:
    """Return a cached builder of models by kind."""
    built: dict[str, Any] = {}
    return lambda kind: built.setdefault(kind, build(kind))
