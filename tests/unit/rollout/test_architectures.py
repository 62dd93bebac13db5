"""What families other than Llama get: the log-probabilities of their own forward pass, or a refusal by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.artifact import Policy
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Request
from instar.components.rollout.engines import open_engine
from instar.components.rollout.stock_forward import cache_argument
from instar.contract import Context
from instar.errors import EngineError
from instar.resident import Resident

VOCAB = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "eos_token_id": 0,
    "max_position_embeddings": 64,
}
GPT_NEO: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "window_size": 16,
    "attention_types": [[["global", "local"], 1]],
    "eos_token_id": 0,
    "max_position_embeddings": 64,
}


def opened(kind: str, shape: dict[str, Any], tmp_path: Path) -> tuple[Any, Any]:
    """Return a random model of a family and the engine that serves it from its folder."""
    from tokenizers import Tokenizer, models
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**shape)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(tmp_path / "policy")
    Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w1")).save(
        str(tmp_path / "policy" / "tokenizer.json")
    )
    ctx = Context(evolution="test", step=0, stage="rollout", scratch=tmp_path, resident=Resident())
    return model, open_engine(EngineConfig(device="cpu"), Policy(tmp_path / "policy", kind), ctx)


@pytest.mark.parametrize("kind", ["mpt", "bloom", "roberta", "openai-gpt"])
def test_families_that_decode_to_other_probabilities_are_refused(kind: str, tmp_path: Path) -> None:
    """ALiBi by columns, no cache, attention to the right: each was sampled with wrong log-probabilities, or died unnamed."""
    shapes: dict[str, dict[str, Any]] = {
        "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "eos_token_id": 0},
        "openai-gpt": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    }
    shape = shapes.get(kind, SHAPE) | {"eos_token_id": 0}
    with pytest.raises(EngineError, match="rollout engine"):
        opened(kind, shape, tmp_path)


def test_local_attention_is_served_within_its_window_and_refused_beyond(tmp_path: Path) -> None:
    model, engine = opened("gpt_neo", GPT_NEO, tmp_path)
    requests = [Request(request_id=str(n), prompt_ids=list(range(1, n + 1)), seeds=[n, n + 50]) for n in (3, 9)]
    for request, samples in zip(requests, engine.sample(requests, max_new_tokens=6, temperature=1.0), strict=True):
        for sample in samples:
            ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
            with torch.no_grad():
                logp = model(input_ids=ids).logits[0].log_softmax(-1)
            n = len(request.prompt_ids)
            expected = logp[n - 1 : -1].gather(1, ids[0, n:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(EngineError, match="window 16"):
        engine.sample(requests, max_new_tokens=7, temperature=1.0)


@pytest.mark.parametrize("kind", ["phi", "gpt_neox", "llama"])
def test_families_with_position_ids_are_served(kind: str, tmp_path: Path) -> None:
    _, engine = opened(kind, SHAPE, tmp_path)
    assert engine.forward.name == ("packed" if kind == "llama" else "stock")


def test_the_cache_has_the_name_that_the_model_knows(tmp_path: Path) -> None:
    """transformers 5.24 renamed the argument and 5.40 drops the old name; a model of before knows no other."""

    class Before:
        def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...

    class After:
        def forward(self, input_ids: Any, cache: Any = None) -> None: ...

    assert cache_argument(Before()) == "past_key_values"
    assert cache_argument(After()) == "cache"
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        _, engine = opened("gpt_neo", GPT_NEO, tmp_path)
        requests = [Request(request_id="r", prompt_ids=[2, 3], seeds=[0])]
        assert engine.forward.name == "stock" and engine.sample(requests, max_new_tokens=3, temperature=1.0)
