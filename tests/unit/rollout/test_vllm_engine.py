"""What every engine promises, asked of both; and what one vLLM server for many policies promises.

vLLM is `support.fake_vllm` here; `tests/gpu/test_vllm_on_cuda.py` asks the same of the real one, and `test_vllm_faults.py`
plants what it may do wrong.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.artifact import Policy
from instar.components.policy_io import MODEL, RESIDENT, fingerprint, load_model
from instar.components.rollout import vllm_server, vllm_weights
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Engine, Request, facts
from instar.components.rollout.engines import open_engine
from instar.components.rollout.vllm_engine import SERVER
from instar.errors import EngineError
from instar.resident import Resident
from support import fake_vllm
from support.vllm_engines import LENGTHS, context, opened

ENGINES = ["transformers", "vllm"]


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("name", ENGINES)
def test_logprobs_are_those_of_the_distribution_sampled_from(
    name: str, temperature: float, tiny: Any, prompts: Any, full_logits: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    model, wanted = tiny("llama"), prompts(LENGTHS, 3)
    engine = opened(name, fused(model, "a"), tmp_path)
    groups = engine.sample(wanted, max_new_tokens=8, temperature=temperature)
    for request, samples in zip(wanted, groups, strict=True):
        for sample in samples:
            logits = full_logits(model, request.prompt_ids + sample.token_ids)[len(request.prompt_ids) - 1 :]
            exact = (logits / (temperature or 1.0)).log_softmax(-1)
            assert sample.logprobs == pytest.approx(
                [float(exact[i, t]) for i, t in enumerate(sample.token_ids)], abs=2e-5
            )
            if temperature == 0:
                assert sample.token_ids == logits[:-1].argmax(-1).tolist()


@pytest.mark.parametrize("name", ENGINES)
def test_a_sample_ends_with_a_stop_token_or_at_the_limit(
    name: str, tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine = opened(name, fused(tiny("llama"), "a", eos_token_id=[1, 2, 3, 4]), tmp_path)
    samples = [s for g in engine.sample(prompts(LENGTHS, 6), max_new_tokens=9, temperature=1.0) for s in g]
    for sample in samples:
        stops = [i for i, token in enumerate(sample.token_ids) if token in (1, 2, 3, 4)]
        assert stops == ([] if sample.truncated else [len(sample.token_ids) - 1])
        assert len(sample.token_ids) == len(sample.logprobs) == (9 if sample.truncated else len(sample.token_ids))
    assert {s.truncated for s in samples} == {True, False}


@pytest.mark.parametrize("stop", [("a",), ("-", "+"), ("b", "ab")])
@pytest.mark.parametrize("name", ENGINES)
def test_a_stop_string_ends_the_sample_and_is_kept(
    name: str, stop: tuple[str, ...], tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    from instar.components.tokenizer import load_tokenizer

    fake()
    policy = fused(tiny("llama"), "a")
    engine, tokenizer = opened(name, policy, tmp_path), load_tokenizer(policy)
    samples = [s for g in engine.sample(prompts(LENGTHS, 8), max_new_tokens=12, temperature=1.0, stop=stop) for s in g]
    hit = 0
    for sample in samples:
        ended = [
            any(x in tokenizer.decode(sample.token_ids[: n + 1]) for x in stop) for n in range(len(sample.token_ids))
        ]
        assert not any(ended[:-1])
        over = ended[-1] or sample.token_ids[-1] in tokenizer.eos_ids
        assert sample.truncated == (not over)
        hit += ended[-1]
    assert hit > 3


@pytest.mark.parametrize("name", ENGINES)
def test_a_stop_at_the_limit_is_not_truncation(
    name: str, tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """One token each, and every token is a stop token."""
    fake()
    engine = opened(name, fused(tiny("llama"), "a", eos_token_id=list(range(32))), tmp_path)
    groups = engine.sample(prompts([4, 6], 3), max_new_tokens=1, temperature=1.0)
    assert all(not sample.truncated for group in groups for sample in group)


@pytest.mark.parametrize("name", ENGINES)
def test_a_sample_depends_on_its_own_seed_only(
    name: str, tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine: Engine = opened(name, fused(tiny("llama"), "a"), tmp_path)
    wanted = prompts(LENGTHS, 4)
    tokens = [[s.token_ids for s in g] for g in engine.sample(wanted, max_new_tokens=7, temperature=1.0)]
    back = engine.sample(wanted[::-1], max_new_tokens=7, temperature=1.0)[::-1]
    alone = [engine.sample([request], max_new_tokens=7, temperature=1.0)[0] for request in wanted]
    assert [[s.token_ids for s in g] for g in back] == tokens
    assert [[s.token_ids for s in g] for g in alone] == tokens
    assert len({tuple(t) for t in tokens[1]}) > 1


@pytest.mark.parametrize("name", ENGINES)
def test_no_request_gives_no_sample(name: str, tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    fake()
    engine = opened(name, fused(tiny("llama"), "a"), tmp_path)
    assert engine.sample([], max_new_tokens=4, temperature=1.0) == []


@pytest.mark.parametrize("ids", [[], [-1], [32], list(range(20)) * 3], ids=["none", "negative", "above", "too long"])
@pytest.mark.parametrize("name", ENGINES)
def test_prompts_that_cannot_be_served_are_refused(
    name: str, ids: list[int], tiny: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine = opened(name, fused(tiny("llama"), "a"), tmp_path)
    with pytest.raises(EngineError):
        engine.sample([Request(request_id="r", prompt_ids=ids, seeds=[0])], max_new_tokens=8, temperature=1.0)


@pytest.mark.parametrize("name", ENGINES)
def test_a_new_digest_serves_new_weights(
    name: str, tiny: Any, prompts: Any, full_logits: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """The engine names what it serves, and the log-probabilities are those of the policy it names."""
    fake()
    resident = Resident()
    (request,) = prompts([5], 1)
    for seed, digest in enumerate(("a", "b", "a")):
        model = tiny("llama", 0 if digest == "a" else 1)
        engine = opened(name, fused(model, f"{digest}{seed}"), tmp_path, resident)
        assert engine.digest == f"{digest}{seed}"
        (sample,) = engine.sample([request], max_new_tokens=3, temperature=0.0)[0]
        exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[4:]
        assert sample.logprobs == pytest.approx([float(exact[i, t]) for i, t in enumerate(sample.token_ids)], abs=2e-5)


# --- one server for many policies -------------------------------------------------------------------------------------


def test_one_server_serves_one_policy_after_the_other(
    tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Asleep between rollouts, awake before weights are written, and started once."""
    fake()
    resident = Resident()
    for seed in range(3):
        engine = opened("vllm", fused(tiny("llama", seed), f"p{seed}"), tmp_path, resident)
        engine.sample(prompts([4], 2), max_new_tokens=2, temperature=1.0)
        engine.rest()
        engine.rest()
    (server,) = fake_vllm.LLM.started
    cycle = ["wake_up", "reload_weights from files", "sleep 1"]
    assert server.calls == ["sleep 1", *cycle, *cycle]


def test_a_sleeping_engine_wakes_for_the_next_sample(
    tiny: Any, prompts: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    fake()
    engine = opened("vllm", fused(tiny("llama"), "a"), tmp_path)
    before = engine.sample(prompts(LENGTHS, 2), max_new_tokens=5, temperature=1.0)
    engine.rest()
    assert engine.sample(prompts(LENGTHS, 2), max_new_tokens=5, temperature=1.0) == before


def test_another_architecture_or_size_starts_another_server(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    fake()
    resident = Resident()
    opened("vllm", fused(tiny("llama"), "a"), tmp_path, resident)
    opened("vllm", fused(tiny("qwen3"), "b"), tmp_path, resident)
    opened("vllm", fused(tiny("qwen3"), "c"), tmp_path, resident, max_rows=3)
    assert [s.max_num_seqs for s in fake_vllm.LLM.started] == [512, 512, 3]
    assert [name for name, _ in resident].count(SERVER.name) == 1


def test_an_update_drops_the_engine_and_keeps_the_server(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    from instar.components.policy_io import take_model

    fake()
    resident = Resident()
    policy = fused(tiny("llama"), "a")
    opened("vllm", policy, tmp_path, resident)
    take_model(policy, context(tmp_path, resident))
    assert list(resident) == [(SERVER.name, "")]


def in_memory(policy: Policy, model: Any, resident: Resident) -> Policy:
    """Make of a policy what an inner step leaves that writes no weights: their fingerprint, and the model in memory."""
    for file in policy.path.glob("*.safetensors"):
        file.unlink()
    (policy.path / RESIDENT).write_text(json.dumps({"fingerprint": fingerprint(model), "num_parameters": 1}))
    resident.put(MODEL, policy, model)
    return policy


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("first", ["another policy", "nothing"])
def test_weights_that_are_only_in_memory_reach_the_engine_without_a_file(
    first: str, kind: str, tiny: Any, prompts: Any, full_logits: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Under the fused clock a policy folder has no weights: the resident model is the policy. Files may follow again."""
    fake()
    resident = Resident()
    if first == "another policy":
        opened("vllm", fused(tiny(kind), "a"), tmp_path, resident)
    model = tiny(kind, 1)
    policy = in_memory(fused(tiny(kind), "b"), model, resident)
    (request,) = prompts([5], 1)
    engine = opened("vllm", policy, tmp_path, resident)
    (sample,) = engine.sample([request], max_new_tokens=3, temperature=0.0)[0]
    exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[4:]
    assert sample.logprobs == pytest.approx([float(exact[i, t]) for i, t in enumerate(sample.token_ids)], abs=2e-5)
    assert not list((tmp_path / "scratch").iterdir())
    (server,) = fake_vllm.LLM.started
    assert server.calls == ["reload_weights from memory"]
    assert server.load_format == "safetensors"
    assert opened("vllm", fused(tiny(kind, 2), "c"), tmp_path, resident).digest == "c"
    assert fake_vllm.LLM.started == [server] and server.calls[1:] == ["reload_weights from files"]


def test_a_model_that_is_loaded_already_is_not_read_again(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    fake()
    resident = Resident()
    opened("vllm", fused(tiny("llama"), "a"), tmp_path, resident)
    policy = fused(tiny("llama", 1), "b")
    load_model(policy, context(tmp_path, resident))
    opened("vllm", policy, tmp_path, resident)
    assert fake_vllm.LLM.started[0].calls == ["reload_weights from memory"]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_a_model_in_memory_has_the_names_and_bits_of_its_files(kind: str, tiny: Any, fused: Any) -> None:
    from safetensors.torch import load_file

    model = tiny(kind)
    files = load_file(fused(model, "a").path / "model.safetensors")
    held = vllm_weights.checkpoint(model)
    assert held.keys() == files.keys() and all(torch.equal(held[name], files[name]) for name in files)


def test_experts_in_one_tensor_are_taken_apart_as_their_files_have_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import MixtralConfig, MixtralForCausalLM

    model: Any = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=3,
            max_position_embeddings=32,
        )
    )
    model.save_pretrained(tmp_path)
    files, held = load_file(tmp_path / "model.safetensors"), vllm_weights.checkpoint(model)
    assert held.keys() == files.keys() and all(torch.equal(held[name], files[name]) for name in files)
    assert sum(".experts." in name for name in held) == 9 and len(held) > len(dict(model.named_parameters()))


def adapted(policy: Policy, base: Any, digest: str, fused: Any, seed: int) -> Any:
    """Write a policy that adds an adapter to `base`, as an update does: merged weights, and the adapter beside them."""
    import copy

    from instar.components.update import lora
    from instar.components.update.config import LoraConfig

    wrapped = lora.attach(copy.deepcopy(base), LoraConfig(r=4, alpha=8, targets=("q_proj", "down_proj")), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in lora.adapters(wrapped).items():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    folder = policy.path.parent / f"adapter-{digest}"
    lora.export(wrapped, folder, {"digest": policy.digest, "fingerprint": "0"})
    merged = lora.merge(wrapped)
    written = fused(merged, digest)
    folder.rename(written.path / "adapter")
    return written, merged


def test_an_adapter_is_all_that_is_loaded_where_the_base_is_inside(
    tiny: Any, prompts: Any, full_logits: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Base, two adapters in turn with sleep between them, base again: one start, no reload, and each its own numbers."""
    fake()
    resident = Resident()
    base = tiny("llama")
    policies = [(fused(base, "base"), base)]
    policies += [adapted(policies[0][0], base, f"p{seed}", fused, seed) for seed in (1, 2)]
    (request,) = prompts([5], 1)
    for policy, model in (*policies, policies[1]):
        engine = opened("vllm", policy, tmp_path, resident, lora_rank=8)
        assert engine.digest == policy.digest
        (sample,) = engine.sample([request], max_new_tokens=3, temperature=0.0)[0]
        exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[4:]
        assert sample.logprobs == pytest.approx([float(exact[i, t]) for i, t in enumerate(sample.token_ids)], abs=2e-5)
        engine.rest()
    (server,) = fake_vllm.LLM.started
    assert not any("reload_weights" in call for call in server.calls) and server.calls.count("adapter") == 3


@pytest.mark.parametrize("rank", [0, 8])
def test_a_policy_whose_base_is_not_inside_is_loaded_whole(
    rank: int, tiny: Any, prompts: Any, full_logits: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Also where adapters are not asked for: the folder holds the merged weights."""
    fake()
    resident = Resident()
    opened("vllm", fused(tiny("llama", 5), "other"), tmp_path, resident, lora_rank=rank)
    policy, model = adapted(fused(tiny("llama"), "base"), tiny("llama"), "p", fused, 1)
    engine = opened("vllm", policy, tmp_path, resident, lora_rank=rank)
    (request,) = prompts([5], 1)
    (sample,) = engine.sample([request], max_new_tokens=3, temperature=0.0)[0]
    exact = full_logits(model, request.prompt_ids + sample.token_ids).log_softmax(-1)[4:]
    assert sample.logprobs == pytest.approx([float(exact[i, t]) for i, t in enumerate(sample.token_ids)], abs=2e-5)
    assert fake_vllm.LLM.started[0].calls == ["reload_weights from files"]


@pytest.mark.parametrize(
    ("stored", "asked", "served"),
    [("float32", "auto", "float32"), ("bfloat16", "auto", "bfloat16"), ("float32", "bfloat16", "bfloat16")],
)
def test_the_precision_is_the_policys_own_or_the_one_asked_for(
    stored: str, asked: str, served: str, tiny: Any, fused: Any, fake: Any, tmp_path: Path
) -> None:
    """Left to itself vLLM makes float16 of a float32 checkpoint."""
    fake()
    policy = fused(tiny("llama").to(getattr(torch, stored)), "a")
    assert json.loads((policy.path / "config.json").read_text())["dtype"] == stored
    opened("vllm", policy, tmp_path, dtype=asked)
    assert fake_vllm.LLM.started[-1].dtype == served


def test_the_stage_puts_the_engine_to_sleep_when_it_is_done(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    """Two rollouts of two policies through `sample`: awake for samples and canary, asleep after them."""
    from instar.artifact import Rollouts, Tasks
    from instar.components.rollout import sample as stage
    from instar.components.rollout.config import SampleConfig
    from instar.rows import BatchRow, TaskRow

    fake()
    task = TaskRow(
        task_id="t",
        arm="a",
        domain="d",
        level=1.0,
        split="train",
        prompt="12+3=",
        verifier="number",
        reference="{}",
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )
    slot = BatchRow(slot=0, task_id="t", arm="a", probability=1.0, group_id="g", group_size=3)
    tasks, resident = Tasks(tmp_path / "tasks", "tasks"), Resident()
    tasks.path.mkdir()
    tasks.write([task])
    config = SampleConfig(max_new_tokens=5, stop=("a",), engine=EngineConfig(name="vllm"))
    for seed in range(2):
        out = Rollouts(tmp_path / f"out{seed}")
        out.path.mkdir()
        policy = fused(tiny("llama", seed), f"p{seed}")
        stage.sample(policy, {"tasks": tasks}, [slot], out, config, context(tmp_path, resident))
        assert {row.policy for row in out.read()} == {policy.digest} and len(out.read()) == 3
        assert fake_vllm.LLM.started[-1].calls[-1] == "sleep 1"
    assert fake_vllm.LLM.started[0].calls == ["sleep 1", "wake_up", "reload_weights from files", "sleep 1"]


@pytest.mark.parametrize(("runner", "in_kernel"), [("", 1.0), ("0", 0.0), ("1", 1.0)])
def test_row_by_row_drawing_is_said(
    runner: str, in_kernel: float, tiny: Any, fused: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's model runner V1 draws a seeded sample by itself; V2, the one it takes when nothing is said, in one kernel."""
    fake()
    if runner:
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
    said: list[str] = []
    ctx = dataclasses.replace(context(tmp_path), heartbeat=lambda unit, metrics: said.append(unit))
    engine = open_engine(EngineConfig(name="vllm"), fused(tiny("llama"), "a"), ctx)
    assert facts(engine) == {"seeds_in_kernel": in_kernel, "batch_invariant": 0.0}
    assert bool(said) == (in_kernel == 0.0)


def test_batch_invariance_is_set_before_vllm_is_imported(
    tiny: Any, fused: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM reads it at import, so a process has one mode; what the environment says otherwise is refused, not overruled."""
    fake()
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    policy = fused(tiny("llama"), "a")
    with pytest.raises(EngineError, match="all engines of a process share one mode"):
        opened("vllm", policy, tmp_path, batch_invariant=True)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    assert facts(opened("vllm", policy, tmp_path, batch_invariant=True))["batch_invariant"] == 1.0
    with pytest.raises(EngineError, match="unset VLLM_BATCH_INVARIANT"):
        opened("vllm", policy, tmp_path)
    with monkeypatch.context() as patch:
        patch.delenv("VLLM_BATCH_INVARIANT")
        patch.delitem(sys.modules, "vllm")
        vllm_server.choose_modes(EngineConfig(name="vllm", batch_invariant=True))
        assert os.environ["VLLM_BATCH_INVARIANT"] == "1"


def test_an_engine_in_another_process_is_refused(
    tiny: Any, fused: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(EngineError, match="unset VLLM_ENABLE_V1_MULTIPROCESSING"):
        opened("vllm", fused(tiny("llama"), "a"), tmp_path)


def test_arguments_that_vllm_does_not_have_would_be_refused(tiny: Any, fused: Any, fake: Any, tmp_path: Path) -> None:
    """The stand-in is as strict as vLLM: this is what the contract above rests on."""
    made = fake()
    policy = fused(tiny("llama"), "a")
    with pytest.raises(TypeError):
        made.LLM(model=str(policy.path), dtype="float32", max_rows=3)
    with pytest.raises(TypeError):
        made.SamplingParams(max_new_tokens=3)
    assert load_model(policy, context(tmp_path)).dtype == torch.float32
