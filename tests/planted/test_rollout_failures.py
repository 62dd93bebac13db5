"""Rollout failures that would otherwise be silent, planted one by one. Runs in about six seconds.

Rows of the list of silent failures: 3 (log-probabilities that are not the sampled ones), 5 (the engine keeps old
weights), 8 (tokens change on the way through text).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from instar.artifact import Batch, Policy, Rollouts, Tasks
from instar.components.policy_io import MODEL, load_model
from instar.components.rollout import engines
from instar.components.rollout.config import SampleConfig
from instar.components.rollout.engine import Request, Sample
from instar.components.rollout.sample import check_append_only
from instar.components.rollout.slot_cache import SlotCache
from instar.components.rollout.stage import STAGE, Ins, Outs
from instar.components.rollout.transformers_engine import TransformersEngine
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from instar.errors import ConfigError, ContractError, EngineError, NumericsError
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, Step, TaskRow

CONFIG = SampleConfig(max_new_tokens=5)
MERGED = {"<eos>": 0, "a": 1, "b": 2, "ab": 3, "c": 4, "aa": 5}


def model(seed: int = 0, **changes: Any) -> Any:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
        max_position_embeddings=32,
        **changes,
    )
    made: Any = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.eval()


def policy(path: Path, digest: str, made: Any) -> Policy:
    """Return a policy whose tokenizer merges letters, so that text does not determine tokens."""
    made.save_pretrained(path / digest)
    tokenizer: Any = Tokenizer(models.BPE(MERGED, [("a", "b"), ("a", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(path / digest / "tokenizer.json"))
    return Policy(path / digest, digest)


def roll(path: Path, acting: Policy, resident: Resident | None = None) -> list[RolloutRow]:
    tasks, batch = Tasks(path / "tasks", "t"), Batch(path / "batch", "b")
    for artifact in (tasks, batch):
        artifact.path.mkdir(exist_ok=True)
    row = TaskRow(
        task_id="x/train/0",
        arm="x",
        domain="x",
        level=0.0,
        split="train",
        prompt="abc",
        verifier="v",
        reference="{}",
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )
    tasks.write([row])
    batch.write([BatchRow(slot=0, task_id="x/train/0", arm="x", probability=1.0, group_id="g", group_size=8)])
    outs = Outs(rollouts=Rollouts(path / "rollouts"))
    ctx = Context(
        evolution="e", step=0, stage="rollout", scratch=path, resident=Resident() if resident is None else resident
    )
    STAGE(Ins(policy=acting, tasks=tasks, batch=batch), outs, CONFIG, ctx)
    return outs.rollouts.read()


class Planted:
    """The real engine with one fault: `change` is applied to each sample it returns."""

    def __init__(self, real: Any, change: Any = None, digest: str = "") -> None:
        self.real, self.change, self.digest = real, change, digest or real.digest

    def sample(self, requests: Sequence[Request], **options: Any) -> list[list[Sample]]:
        groups = self.real.sample(requests, **options)
        if self.change is None or options["temperature"] == 0:
            return groups
        return [[self.change(sample) for sample in group] for group in groups]


def plant(monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    monkeypatch.setitem(engines.ENGINES, "transformers", build)


def real(acting: Policy, made: Any) -> TransformersEngine:
    eos = sorted(load_tokenizer(acting).eos_ids)
    return TransformersEngine(made, digest=acting.digest, eos_ids=eos, max_rows=64)


def test_the_unplanted_stage_passes(tmp_path: Path) -> None:
    assert len(roll(tmp_path, policy(tmp_path, "a", model()))) == 8


def test_row_5_an_engine_that_reports_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = policy(tmp_path, "a", model())
    plant(monkeypatch, lambda config, p, ctx: Planted(real(acting, model()), digest="old"))
    with pytest.raises(EngineError, match="expected policy a; found policy old"):
        roll(tmp_path, acting)
    ctx = Context(evolution="e", step=0, stage="evaluate", scratch=tmp_path)
    with pytest.raises(EngineError, match="expected policy a; found policy old"):
        engines.open_engine(CONFIG.engine, acting, ctx)


def test_row_5_an_engine_that_changes_its_digest_while_sampling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting = policy(tmp_path, "a", model())
    planted = Planted(real(acting, model()))

    def swap(sample: Sample) -> Sample:
        planted.digest = "newer"
        return sample

    planted.change = swap
    plant(monkeypatch, lambda config, p, ctx: planted)
    with pytest.raises(EngineError, match="expected policy a; found policy newer"):
        roll(tmp_path, acting)


def test_row_5_an_engine_that_reports_the_new_digest_and_keeps_the_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is right and the weights are not: only the canary can tell."""
    old, new = policy(tmp_path, "a", model()), policy(tmp_path, "b", model(1))
    kept = real(old, model())
    plant(monkeypatch, lambda config, p, ctx: Planted(kept, digest=p.digest))
    resident = Resident()
    roll(tmp_path, old, resident)
    with pytest.raises(EngineError, match="canary log-probability"):
        roll(tmp_path, new, resident)


def test_row_5_honest_weights_pass_the_canary(tmp_path: Path) -> None:
    resident = Resident()
    for acting in (policy(tmp_path, "a", model()), policy(tmp_path, "b", model(1))):
        roll(tmp_path, acting, resident)


def test_row_5_weights_written_under_a_resident_engine(tmp_path: Path) -> None:
    acting, resident = policy(tmp_path, "a", model()), Resident()
    roll(tmp_path, acting, resident)
    loaded: Any = resident.get(MODEL, "a")
    with torch.no_grad():
        next(loaded.parameters()).add_(0.1)
    with pytest.raises(EngineError, match="changed after loading"):
        roll(tmp_path, acting, resident)


def test_row_3_a_model_left_in_training_mode(tmp_path: Path) -> None:
    """Dropout would change every probability; it must not depend on who used the model last."""
    acting, resident = policy(tmp_path, "a", model(attention_dropout=0.5)), Resident()
    roll(tmp_path, acting, resident)
    load_model(acting, Context(evolution="e", step=0, stage="rollout", scratch=tmp_path, resident=resident)).train()
    with pytest.raises(EngineError, match="training mode"):
        roll(tmp_path, acting, resident)


def test_row_8_an_engine_that_encodes_its_text_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acting = policy(tmp_path, "a", model())
    tokenizer = load_tokenizer(acting)

    def again(sample: Sample) -> Sample:
        return dataclasses.replace(sample, token_ids=tokenizer.encode(tokenizer.decode(sample.token_ids)))

    plant(monkeypatch, lambda config, p, ctx: Planted(real(acting, model()), again))
    with pytest.raises(EngineError, match="never ids encoded from text"):
        roll(tmp_path, acting)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: dataclasses.replace(s, logprobs=s.logprobs[:-1]), id="a log-probability is lost"),
        pytest.param(lambda s: dataclasses.replace(s, truncated=not s.truncated), id="truncation is misreported"),
        pytest.param(
            lambda s: dataclasses.replace(s, token_ids=[0, *s.token_ids[1:]]), id="sampling went on after a stop"
        ),
        pytest.param(lambda s: Sample(token_ids=[], logprobs=[], truncated=True), id="nothing was sampled"),
    ],
)
def test_row_3_samples_that_cannot_be_what_was_drawn(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting = policy(tmp_path, "a", model())
    plant(monkeypatch, lambda config, p, ctx: Planted(real(acting, model()), change))
    with pytest.raises(EngineError, match="tokens up to the first of"):
        roll(tmp_path, acting)


def test_row_8_a_row_rebuilt_from_text_breaks_the_prefix(tmp_path: Path) -> None:
    """The prompt `a`, `b` was sampled from; its text encodes to the merged token `ab`."""
    tokenizer = load_tokenizer(policy(tmp_path, "a", model()))
    prompt, action = [1, 2], [4, 0]
    rebuilt = [*tokenizer.encode("ab"), *action]
    assert tokenizer.decode(prompt) in ("ab", "a b")
    good = RolloutRow(
        rollout_id="g/0",
        task_id="x",
        arm="x",
        kind="text",
        group_id="g",
        policy="a",
        token_ids=[*prompt, *action],
        behaviour_logprobs=[-1.0, -1.0],
        truncated=False,
        seed=0,
        steps=[Step(role="prompt", start=0, end=2), Step(role="action", start=2, end=4)],
    )
    check_append_only(good, prompt)
    spans = [Step(role="prompt", start=0, end=1), Step(role="action", start=1, end=3)]
    with pytest.raises(ContractError, match="ids that are equal up to 0"):
        check_append_only(dataclasses.replace(good, token_ids=rebuilt, steps=spans), prompt)
    gap = [Step(role="prompt", start=0, end=2), Step(role="action", start=3, end=4)]
    for bad in ({"steps": gap}, {"steps": good.steps[:1]}, {"behaviour_logprobs": [-1.0]}):
        with pytest.raises(ContractError, match="prompt ids unchanged"):
            check_append_only(dataclasses.replace(good, **bad), prompt)


def test_weights_that_diverged(tmp_path: Path) -> None:
    broken = model()
    with torch.no_grad():
        broken.lm_head.weight[3] = float("nan")
    with pytest.raises(NumericsError, match="NaN or infinity"):
        roll(tmp_path, policy(tmp_path, "a", broken))


@pytest.mark.parametrize(
    ("request_ids", "limit", "changes", "message"),
    [
        pytest.param([1, 9], 4, {}, "prompt ids in 0..7", id="id outside of the vocabulary"),
        pytest.param([], 4, {}, "no token", id="empty prompt"),
        pytest.param([1] * 10, 30, {}, "at most 32 positions", id="more positions than the model has"),
        pytest.param([1], 4, {"sliding_window": 4}, "attention over every position", id="sliding window"),
        pytest.param(
            [1],
            4,
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "does not depend on the other rows",
            id="rope",
        ),
    ],
)
def test_requests_that_would_be_served_wrongly(
    request_ids: list[int], limit: int, changes: dict[str, Any], message: str
) -> None:
    made = model(**changes)
    engine = TransformersEngine(made, digest="a", eos_ids=[0], max_rows=8)
    with pytest.raises(EngineError, match=message):
        engine.sample(
            [Request(request_id="r", prompt_ids=request_ids, seeds=[0])], max_new_tokens=limit, temperature=1.0
        )


def test_keys_and_values_without_room_are_refused_before_they_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of a row is 2 x 2 heads x 8 numbers x 4 bytes. 8 rows begin with 3 + 17 of their 20 columns, so with all.

    Without the check the machine ends the process, which names nothing.
    """
    engine = TransformersEngine(model(), digest="d", eos_ids=[], max_rows=8)
    requests = [Request(request_id="r", prompt_ids=[1, 2, 3], seeds=list(range(8)))]
    block, free = 8 * 20 * (2 * 2 * 8 * 4), "instar.components.update.memory.available_bytes"
    monkeypatch.setattr(free, lambda device: block)
    assert len(engine.sample(requests, max_new_tokens=17, temperature=1.0)[0]) == 8
    monkeypatch.setattr(free, lambda device: block - 1)
    with pytest.raises(ConfigError, match=r"keys and values of 8 rows x 20 columns") as caught:
        engine.sample(requests, max_new_tokens=17, temperature=1.0)
    assert caught.value.where == "rollout.engine.max_rows" and "lower it" in caught.value.action


def test_keys_and_values_that_grow_beyond_the_room_are_refused() -> None:
    """One row of 4 columns grows by 32: 32 more columns, and beside the old tensor of keys its new one."""
    column = 2 * 2 * 8 * 4
    like = [(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))]
    cache, free = SlotCache(like, 1, 4), "instar.components.update.memory.available_bytes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(free, lambda device: 32 * column + 4 * column // 2 - 1)
        with pytest.raises(ConfigError, match=r"1 rows x 36 columns"):
            cache.reserve(5, 100)
        patch.setattr(free, lambda device: 32 * column + 4 * column // 2)
        cache.reserve(5, 100)
    assert cache.columns == 36
