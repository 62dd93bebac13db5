"""What vLLM may do wrong without a sign, planted one by one in `support.fake_vllm`: each has its error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.components.policy_io import MODEL, RESIDENT, fingerprint, load_model
from instar.components.rollout.engine import Request
from instar.components.rollout.vllm_engine import VllmEngine
from instar.errors import ArtifactError, EngineError, InstarError, MissingDependencyError, NumericsError
from instar.resident import Resident
from support import fake_vllm
from support.vllm_engines import LENGTHS, context, opened


@pytest.mark.parametrize("fault", ["count", "missing logprob", "retokenised", "nan", "aborted", "other prompt"])
def test_an_answer_that_is_not_what_was_sampled_is_refused(
    fault: str, tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    made = fake()
    engine = opened("vllm", fused(tiny("llama"), "a", eos_token_id=[1, 2, 3, 4, 5, 6, 7, 8]), tmp_path)
    made.LLM.faults = {fault}
    expected: type[InstarError] = NumericsError if fault == "nan" else EngineError
    with pytest.raises(expected):
        engine.sample(prompts(LENGTHS, 6), max_new_tokens=9, temperature=1.0)


@pytest.mark.parametrize("source", ["files", "memory"])
@pytest.mark.parametrize("fault", ["not reloaded", "one left out", "cache kept"])
def test_old_weights_and_old_keys_are_refused(
    fault: str, source: str, tiny: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """And the next attempt is not fooled: it loads again."""
    made = fake(fault)
    resident = Resident()
    opened("vllm", fused(tiny("llama", 0), "a"), tmp_path, resident)
    new = fused(tiny("llama", 1), "b")
    if source == "memory":
        load_model(new, context(tmp_path, resident))
    for _ in range(2):
        with pytest.raises(EngineError):
            opened("vllm", new, tmp_path, resident)
    made.LLM.faults = set()
    assert opened("vllm", new, tmp_path, resident).digest == "b"


def test_a_model_in_memory_that_somebody_changed_is_not_served(
    tiny: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """The folder names the weights that an inner step left in memory; others are not those of its digest."""
    fake()
    resident = Resident()
    policy, model = fused(tiny("llama"), "a"), tiny("llama", 1)
    for file in policy.path.glob("*.safetensors"):
        file.unlink()
    (policy.path / RESIDENT).write_text(json.dumps({"fingerprint": fingerprint(model), "num_parameters": 1}))
    resident.put(MODEL, policy, model)
    model.model.norm.weight.data[0] += 1
    with pytest.raises(EngineError, match="in memory"):
        opened("vllm", policy, tmp_path, resident)
    resident.drop("a")
    with pytest.raises(ArtifactError, match="weights were only in memory"):
        opened("vllm", policy, tmp_path, resident)


def test_weights_that_come_back_stale_after_waking_are_refused(
    tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Awake again, the engine holds what it held when it first fell asleep; its digest says otherwise."""
    fake("stale after wake")
    resident = Resident()
    opened("vllm", fused(tiny("llama", 0), "a"), tmp_path, resident).rest()
    engine = opened("vllm", fused(tiny("llama", 1), "b"), tmp_path, resident)
    engine.sample(prompts([4], 1), max_new_tokens=2, temperature=1.0)
    engine.rest()
    with pytest.raises(EngineError, match="after waking"):
        engine.sample(prompts([4], 1), max_new_tokens=2, temperature=1.0)
    with pytest.raises(EngineError, match="open it again"):
        engine.sample(prompts([4], 1), max_new_tokens=2, temperature=1.0)


def test_one_bit_of_one_matrix_is_noticed(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    """A key projection, which vLLM keeps stacked with two others."""
    made = fake()
    read = made.LLM._read

    def damaged(self: Any, folder: str) -> Any:
        model = read(self, folder)
        model.model.layers[1].self_attn.k_proj.weight.data.view(torch.int32)[3, 4] ^= 1
        return model

    made.LLM._read = damaged
    with pytest.raises(EngineError, match="qkv_proj"):
        opened("vllm", fused(tiny("llama"), "a"), tmp_path)


def test_an_engine_whose_server_moved_on_refuses(
    tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    resident = Resident()
    old = opened("vllm", fused(tiny("llama", 0), "a"), tmp_path, resident)
    opened("vllm", fused(tiny("llama", 1), "b"), tmp_path, resident)
    with pytest.raises(EngineError, match="policy a"):
        old.sample(prompts([4], 1), max_new_tokens=2, temperature=1.0)


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_temperatures_that_vllm_would_change_are_refused(
    temperature: float, tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine = opened("vllm", fused(tiny("llama"), "a"), tmp_path)
    with pytest.raises(EngineError, match="temperature"):
        engine.sample(prompts([4], 1), max_new_tokens=2, temperature=temperature)


def test_a_stop_string_that_vllm_sees_late_is_cut_where_it_ends(
    tiny: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine: VllmEngine = opened("vllm", fused(tiny("llama"), "a"), tmp_path)
    ids = engine._tokenizer.encode("5ab7")
    places = [{token: fake_vllm.Logprob(-0.5 - i)} for i, token in enumerate(ids)]
    answer = fake_vllm.CompletionOutput(0, "", ids, None, places, "length")
    request = Request(request_id="r", prompt_ids=[2, 3], seeds=[0])
    sample = engine._read(fake_vllm.RequestOutput("0", None, [2, 3], [answer]), request, ("ab",))
    assert (sample.token_ids, sample.logprobs, sample.truncated) == (ids[:3], [-0.5, -1.5, -2.5], False)


def test_a_cpu_and_a_missing_package_are_named(
    tiny: Any, fused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = fused(tiny("llama"), "a")
    with pytest.raises(EngineError, match="CUDA"):
        opened("vllm", policy, tmp_path, device="cpu")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match="vllm"):
        opened("vllm", policy, tmp_path)
