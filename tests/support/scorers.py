"""Models that score answers, for tests: random reward models, and a judge whose verdicts are planted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

CHARACTERS = "0123456789=?ynYesNo "
PLANTED: dict[str, dict[str, float]] = {
    "?": {"y": 0.7, "n": 0.2},
    "1": {"Y": 0.8, "N": 0.1},
    "2": {"N": 0.6, "Y": 0.3},
    "3": {"=": 0.9},
    "Y": {"e": 0.99},
    "e": {"s": 0.99},
    "N": {"o": 0.99},
    **{last: {"<end>": 0.99} for last in "ynso="},
}
"""Character -> the probabilities of what follows it. After 1 comes Yes, after 2 No, after 3 what is no verdict."""


def characters(folder: Path, alphabet: str = CHARACTERS) -> list[str]:
    """Write a tokenizer of single characters, and return its tokens in order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<end>", *dict.fromkeys(alphabet)]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)
    return tokens


def shape(vocabulary: int, **changes: Any) -> Any:
    from transformers import LlamaConfig

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**{**sizes, **changes})


def judge(folder: Path, planted: Mapping[str, Mapping[str, float]] = PLANTED) -> Path:
    """Write a causal model that looks at the last character only, and gives the planted probabilities to the next one."""
    from transformers import LlamaForCausalLM

    tokens = characters(folder)
    model: Any = LlamaForCausalLM(shape(len(tokens)))
    with torch.no_grad():
        for layer in model.model.layers:  # no layer adds anything, so the hidden state is the embedding
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        width = model.config.hidden_size
        model.model.embed_tokens.weight.copy_(torch.eye(width)[: len(tokens)])
        for token, likely in planted.items():
            rest = (1.0 - sum(likely.values())) / (len(tokens) - len(likely))
            logits = [math.log(likely.get(other, rest)) for other in tokens]
            model.lm_head.weight[:, tokens.index(token)] = torch.tensor(logits) / math.sqrt(width)
    model.save_pretrained(folder)
    return folder


def reward_model(folder: Path, vocabulary: int, seed: int = 0, **changes: Any) -> Path:
    """Write a random classifier with one label into a folder that has a tokenizer."""
    from transformers import LlamaForSequenceClassification

    model: Any = LlamaForSequenceClassification(shape(vocabulary, **{"num_labels": 1, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5, generator=generator)
    model.save_pretrained(folder)
    return folder
