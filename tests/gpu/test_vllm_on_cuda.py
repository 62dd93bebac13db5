"""The vLLM engine on a CUDA device, with the real package: the contract, reloading by digest, sleep and wake.

One module keeps one server, because starting it takes half a minute. The policies are random Llamas of 64 wide heads, which
vLLM's attention kernels take, in bfloat16.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available() or importlib.util.find_spec("vllm") is None:
    pytest.skip("needs a CUDA device and vllm", allow_module_level=True)

from instar.artifact import Policy
from instar.components.dataset_prep.charlm import CharModelConfig, build_tokenizer
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Request, facts
from instar.components.rollout.engines import open_engine
from instar.components.rollout.stops import holds
from instar.components.rollout.vllm_engine import SERVER
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context

pytestmark = pytest.mark.gpu

ALPHABET = "0123456789+-= abcdefghijklmnop\n"
CONFIG = EngineConfig(name="vllm", dtype="bfloat16", max_rows=64, memory_share=0.3)
PROMPTS = [
    Request(request_id=f"r{n}", prompt_ids=list(range(2, 2 + n)), seeds=[100 * n + i for i in range(8)])
    for n in (3, 9, 17)
]


def write(folder: Path, digest: str, seed: int) -> Policy:
    """Write a random policy: 128 wide, two layers, two heads of 64, a vocabulary of whole blocks.

    Its `generation_config.json` has a top-k and a temperature, as that of many checkpoints; they must stay without effect.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=128,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    model.to(torch.bfloat16).save_pretrained(folder / digest)
    build_tokenizer(CharModelConfig(alphabet=ALPHABET)).save_pretrained(folder / digest)
    settings = {"do_sample": True, "top_k": 1, "temperature": 0.1, "eos_token_id": 1}
    (folder / digest / "generation_config.json").write_text(json.dumps(settings))
    return Policy(folder / digest, digest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Policy], Context]]:
    """Two policies, and the context whose memory holds the server."""
    root = tmp_path_factory.mktemp("vllm")
    ctx = Context(evolution="test", step=0, stage="rollout", scratch=root)
    yield [write(root, f"policy{seed}", seed) for seed in range(2)], ctx
    ctx.resident.clear()


def exact(policy: Policy, request: Request, ids: list[int]) -> list[float]:
    """Return the log-probabilities of the sampled tokens by transformers, in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([request.prompt_ids + ids])).logits[0, len(request.prompt_ids) - 1 : -1]
    return [float(row[token]) for row, token in zip(logits.log_softmax(-1), ids, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_logprobs_are_the_models(world: Any, temperature: float) -> None:
    """Every sampled token within what bfloat16 rounds: in the mean .02, at most .3 nats."""
    (policy, _), ctx = world
    engine = open_engine(CONFIG, policy, ctx)
    gaps = []
    for request, samples in zip(
        PROMPTS, engine.sample(PROMPTS, max_new_tokens=24, temperature=temperature), strict=True
    ):
        assert len(samples) == len(request.seeds)
        for sample in samples:
            true = exact(policy, request, sample.token_ids)
            gaps += [abs(a - b) for a, b in zip(sample.logprobs, true, strict=True)]
    assert max(gaps) < 0.3 and sum(gaps) / len(gaps) < 0.02, (max(gaps), sum(gaps) / len(gaps))


def test_equal_seeds_give_equal_samples_and_others_do_not(world: Any) -> None:
    (policy, _), ctx = world
    engine = open_engine(CONFIG, policy, ctx)
    first, second = (engine.sample(PROMPTS, max_new_tokens=12, temperature=1.0) for _ in range(2))
    tokens = [[s.token_ids for s in group] for group in first]
    same = sum(
        a.token_ids == b.token_ids for g, h in zip(first, second, strict=True) for a, b in zip(g, h, strict=True)
    )
    assert same >= 22  # of 24: a neighbour changes the rounding, and a draw may fall on the other side of it
    assert all(len({tuple(t) for t in group}) > 4 for group in tokens)


def test_stop_tokens_and_stop_strings_end_a_sample_and_are_kept(world: Any) -> None:
    (policy, _), ctx = world
    engine, tokenizer = open_engine(CONFIG, policy, ctx), load_tokenizer(policy)
    ends = set()
    for group in engine.sample(PROMPTS, max_new_tokens=64, temperature=1.0, stop=("\n", "a")):
        for sample in group:
            early, late = (
                holds(tokenizer.decode(part), ("\n", "a")) for part in (sample.token_ids[:-1], sample.token_ids)
            )
            stopped = [i for i, token in enumerate(sample.token_ids) if token in tokenizer.eos_ids]
            assert not early and stopped in ([], [len(sample.token_ids) - 1])
            assert sample.truncated == (not late and not stopped)
            ends.add("string" if late else "token" if stopped else "limit")
    assert "string" in ends


def test_a_new_policy_is_served_by_the_same_server_and_sleep_gives_the_memory_back(world: Any) -> None:
    policies, ctx = world
    first = open_engine(CONFIG, policies[0], ctx)
    first.sample(PROMPTS, max_new_tokens=4, temperature=1.0)
    server = ctx.resident.get(SERVER)
    assert server is not None
    free = torch.cuda.mem_get_info()[0]
    server.sleep()
    assert torch.cuda.mem_get_info()[0] - free > 2**30  # keys and values; the model itself is small
    engine = open_engine(CONFIG, policies[1], ctx)
    assert engine.digest == "policy1" and ctx.resident.get(SERVER) is server
    for request, (sample, *_) in zip(PROMPTS, engine.sample(PROMPTS, max_new_tokens=8, temperature=0.0), strict=True):
        true = exact(policies[1], request, sample.token_ids)
        assert max(abs(a - b) for a, b in zip(sample.logprobs, true, strict=True)) < 0.3


def test_weights_that_do_not_arrive_are_noticed(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.errors import EngineError

    policies, ctx = world
    open_engine(CONFIG, policies[0], ctx)
    server = ctx.resident.get(SERVER)
    with monkeypatch.context() as patch, pytest.raises(EngineError, match="other weights"):
        patch.setattr(server.llm, "collective_rpc", lambda *args, **kwargs: [None])
        open_engine(CONFIG, policies[1], ctx)
    assert open_engine(CONFIG, policies[1], ctx).digest == "policy1"


def test_weights_in_memory_reach_the_engine_without_a_file(world: Any, tmp_path: Path) -> None:
    """The policy of an inner step that writes no weights; then one with files again. The model is on the device."""
    from transformers import AutoModelForCausalLM

    from instar.components.policy_io import MODEL, RESIDENT, fingerprint

    policies, ctx = world
    policy = write(tmp_path, "policy5", 5)
    model: Any = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.bfloat16).eval()
    model.to("cuda")
    (policy.path / RESIDENT).write_text(json.dumps({"fingerprint": fingerprint(model), "num_parameters": 1}))
    files = {file: file.read_bytes() for file in policy.path.glob("*.safetensors")}
    for file in files:
        file.unlink()
    ctx.resident.put(MODEL, policy, model)
    server = ctx.resident.get(SERVER)
    engine = open_engine(CONFIG, policy, ctx)
    assert engine.digest == "policy5" and (server is None or ctx.resident.get(SERVER) is server)
    groups = engine.sample(PROMPTS, max_new_tokens=8, temperature=0.0)
    for file, content in files.items():  # for the comparison alone
        file.write_bytes(content)
    for request, (sample, *_) in zip(PROMPTS, groups, strict=True):
        true = exact(policy, request, sample.token_ids)
        assert max(abs(a - b) for a, b in zip(sample.logprobs, true, strict=True)) < 0.3
    assert open_engine(CONFIG, policies[0], ctx).digest == "policy0"


def test_a_first_policy_in_memory_starts_the_engine(tmp_path: Path) -> None:
    """On random weights, which are replaced before anything is served."""
    from transformers import AutoModelForCausalLM

    from instar.components.policy_io import MODEL, RESIDENT, fingerprint

    policy = write(tmp_path, "policy6", 6)
    model: Any = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.bfloat16).eval()
    (policy.path / RESIDENT).write_text(json.dumps({"fingerprint": fingerprint(model), "num_parameters": 1}))
    for file in policy.path.glob("*.safetensors"):
        file.unlink()
    ctx = Context(evolution="test", step=0, stage="rollout", scratch=tmp_path)
    ctx.resident.put(MODEL, policy, model)
    small = dataclasses.replace(CONFIG, memory_share=0.1)
    try:
        assert open_engine(small, policy, ctx).digest == "policy6"
    finally:
        (ctx.resident.get(SERVER) or pytest.fail("no server")).stop()


def test_one_kernel_draws_for_all_seeds(world: Any) -> None:
    (policy, _), ctx = world
    assert facts(open_engine(CONFIG, policy, ctx))["seeds_in_kernel"] == 1.0


def test_batch_invariant_samples_do_not_depend_on_their_neighbours() -> None:
    """In a process of its own, because vLLM reads the mode when it is imported."""
    program = "from gpu import test_vllm_on_cuda as tests; tests.sample_three_ways()"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {k: v for k, v in os.environ.items() if k != "VLLM_BATCH_INVARIANT"} | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-2000:]


def sample_three_ways() -> None:
    """Sample together, in reverse and one by one; all must be the same, tokens and log-probabilities."""
    with tempfile.TemporaryDirectory() as folder:
        policy = write(Path(folder), "policy0", 0)
        ctx = Context(evolution="test", step=0, stage="rollout", scratch=Path(folder))
        engine = open_engine(dataclasses.replace(CONFIG, batch_invariant=True), policy, ctx)
        together = engine.sample(PROMPTS, max_new_tokens=24, temperature=1.0)
        assert engine.sample(PROMPTS[::-1], max_new_tokens=24, temperature=1.0)[::-1] == together
        assert [engine.sample([one], max_new_tokens=24, temperature=1.0)[0] for one in PROMPTS] == together


def test_the_folders_generation_settings_change_nothing(world: Any) -> None:
    """With its top-k of 1 all samples of a group would be one."""
    (policy, _), ctx = world
    group = open_engine(CONFIG, policy, ctx).sample(PROMPTS[:1], max_new_tokens=12, temperature=1.0)[0]
    assert len({tuple(sample.token_ids) for sample in group}) > 4


def test_the_stand_in_has_nothing_that_the_package_has_not() -> None:
    """The unit tests rest on `support.fake_vllm`: its arguments and fields are a part of the real ones."""
    import importlib
    import inspect

    from support import fake_vllm

    vllm: Any = importlib.import_module("vllm")
    arguments: Any = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    request: Any = importlib.import_module("vllm.lora.request").LoRARequest
    outputs: Any = importlib.import_module("vllm.outputs").CompletionOutput

    def names(kind: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)}

    assert names(fake_vllm.SamplingParams) <= set(vllm.SamplingParams.__struct_fields__)
    assert names(fake_vllm.LLM) - {"calls"} <= names(arguments)
    assert names(fake_vllm.LoRARequest) <= set(request.__struct_fields__)
    assert names(fake_vllm.CompletionOutput) <= names(outputs)
    runner: Any = importlib.import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    for ours, theirs in ((fake_vllm.LLM._reload, runner.reload_weights), (fake_vllm.LLM._update, runner.update_config)):
        assert set(inspect.signature(ours).parameters) <= set(inspect.signature(theirs).parameters)
