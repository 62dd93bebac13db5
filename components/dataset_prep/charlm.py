"""A new character-level causal language model: its vocabulary, its architecture and its initial weights.

The model is an ordinary Llama of transformers, so every engine and tool that reads checkpoints can read it. A seeded generator
draws the weights. The global random generator is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.config import out_of_range
from instar.errors import ConfigError
from instar.seeds import torch_generator

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"


@dataclass(frozen=True, kw_only=True)
class CharModelConfig:
    """Sizes of the model. `alphabet` holds every character that prompts and answers can have."""

    alphabet: str
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 256
    max_length: int = 128
    init_std: float = 0.05
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet) or not self.alphabet:
            raise ConfigError(
                expected="an alphabet of distinct characters",
                found=repr(self.alphabet),
                where="dataset_prep.initial.model.alphabet",
                action="list every character once",
            )
        for name in ("hidden", "layers", "heads", "intermediate", "max_length", "init_std", "rope_theta"):
            if not getattr(self, name) > 0:
                raise out_of_range(f"dataset_prep.initial.model.{name}", "> 0", getattr(self, name))
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ConfigError(
                expected="hidden / heads to be an even whole number, which is the size of a head",
                found=f"{self.hidden} / {self.heads}",
                where="dataset_prep.initial.model.hidden",
                action="change hidden or heads",
            )


def build_tokenizer(config: CharModelConfig) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one id per character. Id 0 is padding, and id 1 ends a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: number for number, token in enumerate([PAD, EOS, *config.alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def build_model(config: CharModelConfig, seed: int) -> LlamaForCausalLM:
    """Return a Llama with weights from N(0, init_std). The weights of norms are 1."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": len(config.alphabet) + 2,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    generator = torch_generator(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, config.init_std, generator=generator)
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a complete checkpoint: configuration, generation configuration, safetensors, tokenizer."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
