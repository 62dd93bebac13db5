"""The stage on a tiny Llama: direction of learning, exact ratios, exact resume, and what it writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from instar.components.policy_io import CANARY, MODEL, load_model
from instar.components.rollout.engines import ENGINE
from instar.components.update.config import Kl, LoraConfig, PolicyGradientConfig
from instar.components.update.presets import PRESETS, preset
from instar.components.update.resident_state import TRAINER
from instar.errors import ContractError, LedgerError
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, Step
from unit.update.world import World, make_world, score_row, weights

PROMPT, GOOD, BAD = [1, 2, 3], 7, 11


def _ready(world: World, config: PolicyGradientConfig) -> PolicyGradientConfig:
    world.reference = world.policy if config.kl.place != "none" else None
    return config


@pytest.fixture
def bandit(world: World) -> World:
    """One prompt, two answers of one token, reward 1 for the first."""
    model = load_model(world.policy, world.context())
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    world.batch = [
        BatchRow(slot=s, task_id="t", arm="a", probability=1.0, group_id=f"g{s}", group_size=4) for s in (0, 1)
    ]
    world.rollouts, world.scores = [], []
    for slot in (0, 1):
        for i, token in enumerate((GOOD, BAD, BAD, GOOD)):
            world.rollouts.append(
                RolloutRow(
                    rollout_id=f"g{slot}/{i}",
                    task_id="t",
                    arm="a",
                    kind="text",
                    group_id=f"g{slot}",
                    policy="digest0",
                    token_ids=[*PROMPT, token],
                    behaviour_logprobs=[float(logp[token])],
                    truncated=False,
                    seed=0,
                    steps=[Step(role="prompt", start=0, end=3), Step(role="action", start=3, end=4)],
                )
            )
            world.scores.append(score_row(f"g{slot}/{i}", float(token == GOOD), float(token == GOOD)))
    return world


def _preference(world: World, outs: Any) -> float:
    """Return how much the update moved log p(good) - log p(bad)."""
    moved = []
    for policy in (outs.policy, world.policy):
        with torch.no_grad():
            logits = load_model(policy, world.context())(input_ids=torch.tensor([PROMPT])).logits[0, -1]
        moved.append(float(logits[GOOD] - logits[BAD]))
    return moved[0] - moved[1]


@pytest.mark.parametrize("name", PRESETS)
def test_two_armed_bandit_moves_towards_the_reward(bandit: World, name: str) -> None:
    config = _ready(bandit, preset(name, lr=1e-3, minibatches=1))
    outs, metrics = bandit.update(config)
    assert metrics["updates"] == 1
    assert _preference(bandit, outs) > 0.01


@pytest.mark.parametrize("name", ["default", "grpo", "gspo", "cispo"])
def test_the_direction_holds_off_policy(bandit: World, name: str) -> None:
    """Three epochs over the same rollouts: ratios leave 1 and the preference keeps growing."""
    config = _ready(bandit, preset(name, lr=1e-3, epochs=3, clip_low=0.05, clip_high=0.05))
    outs, metrics = bandit.update(config)
    assert metrics["updates"] == 3 and metrics["ratio/max"] - metrics["ratio/min"] > 1e-3
    assert _preference(bandit, outs) > 0.01


@pytest.mark.parametrize("packing", ["none", "sequence", "prefix"])
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_the_first_ratio_is_exactly_1(world: World, packing: Any, checkpointing: Any) -> None:
    """Two minibatches, so old log-probabilities come from a pass of their own; the step moves no weight."""
    config = preset(
        "default",
        minibatches=2,
        epochs=2,
        lr=1e-30,
        packing=packing,
        micro_batch_tokens=40,
        gradient_checkpointing=checkpointing,
        entropy_coef=1e-3,
    )
    _, metrics = world.update(config)
    assert metrics["updates"] == 4
    assert metrics["ratio/min"] == metrics["ratio/max"] == 1.0


@pytest.mark.parametrize("value", [0.1, 0.7, 0.9])
@pytest.mark.parametrize("name", ["default", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "sec"])
def test_constant_rewards_change_nothing(world: World, name: str, value: float) -> None:
    config = preset(name, lr=1e-2, kl=Kl(), weight_decay=0.1)
    world.scored(lambda row: value)
    outs, metrics = world.update(config)
    assert metrics["updates"] == 0 and metrics["abs_advantage_mean"] == 0 and metrics["zero_variance_share"] == 1
    assert all(
        torch.equal(a, b) for a, b in zip(weights(outs.policy).values(), weights(world.policy).values(), strict=True)
    )
    assert "mismatch/abs_mean" in metrics  # still measured, on one forward pass
    for file in world.policy.path.iterdir():
        assert (outs.policy.path / file.name).read_bytes() == file.read_bytes()


CASES = {
    "default": PolicyGradientConfig(lr=1e-3, schedule="cosine", warmup_steps=1, total_steps=20, weight_decay=0.01),
    "sec": preset("sec", lr=1e-3, minibatches=4),
    "ppo": preset("ppo", lr=1e-3, critic_lr=1e-2),
    "lora": PolicyGradientConfig(lr=1e-3, lora=LoraConfig(r=2, alpha=4)),
}


def _run(world: World, config: PolicyGradientConfig, steps: int, resident: Resident | None) -> bytes:
    world.reference = world.policy if config.kl.place != "none" else None
    for _ in range(steps):
        outs, metrics = world.update(config, resident)
        assert metrics["updates"] >= 1
        world.advance(outs, resident)
    return b"".join((folder / name).read_bytes() for folder, name in _final(world))


def _final(world: World) -> list[tuple[Path, str]]:
    assert world.trainer is not None
    names = ("optimizer.safetensors", "trainer.json")
    return [(world.policy.path, "model.safetensors"), *((world.trainer.path, name) for name in names)]


@pytest.mark.parametrize("name", CASES)
def test_resident_and_from_disk_are_the_same_bits(tmp_path: Path, name: str) -> None:
    """An unbroken process that keeps the model equals one that reloads policy and trainer state before every step."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept = _run(make_world(tmp_path / "a"), CASES[name], 3, Resident())
    reloaded = _run(make_world(tmp_path / "b"), CASES[name], 3, None)
    assert kept == reloaded


def test_the_model_leaves_residency_before_it_changes(world: World) -> None:
    resident = Resident()
    resident.put(CANARY, None, ("digest", -1.0))
    ctx = world.context(resident)
    model = load_model(world.policy, ctx)
    assert load_model(world.policy, ctx) is model
    engine: Any = "engine"
    resident.put(ENGINE, world.policy, ("settings", engine))
    outs, _ = world.update(PolicyGradientConfig(lr=1e-3), resident)
    left = {(MODEL.name, str(outs.policy.path)), (TRAINER.name, str(outs.trainer.path))}
    assert set(resident) == {(CANARY.name, ""), ("update/agrees", "")} | left
    assert resident.waiting(MODEL, outs.policy) is model
    assert not model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_policy_folder_is_complete_and_depends_on_the_weights_alone(world: World) -> None:
    one, _ = world.update(PolicyGradientConfig(lr=1e-3))
    two, _ = world.update(PolicyGradientConfig(lr=1e-3))
    files = {p.name for p in one.policy.path.iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "weights.json"}
    for name in files:
        assert (one.policy.path / name).read_bytes() == (two.policy.path / name).read_bytes()


def test_a_missing_trainer_state_is_an_error_after_step_0(world: World) -> None:
    world.step = 3
    with pytest.raises(LedgerError, match="trainer state of step 2"):
        world.update(PolicyGradientConfig())


def test_a_trainer_state_of_another_policy_is_refused(world: World) -> None:
    outs, _ = world.update(PolicyGradientConfig(lr=1e-3))
    world.trainer, world.step = outs.trainer, 1
    with pytest.raises(LedgerError, match="another policy"):
        world.update(PolicyGradientConfig(lr=1e-3))


def test_changing_the_kind_of_trainer_is_refused(world: World) -> None:
    outs, _ = world.update(PolicyGradientConfig(lr=1e-3))
    world.advance(outs)
    with pytest.raises(LedgerError, match="lora"):
        world.update(PolicyGradientConfig(lr=1e-3, lora=LoraConfig(r=2)))


def test_a_kl_term_needs_a_reference(world: World) -> None:
    with pytest.raises(ContractError, match="reference"):
        world.update(preset("grpo"))


def test_the_divergence_from_the_reference_grows_from_0(world: World) -> None:
    config = _ready(world, preset("grpo", lr=1e-3))
    outs, first = world.update(config)
    assert first["kl/k1"] == first["kl/k3"] == 0
    world.advance(outs)
    _, second = world.update(config)
    assert second["kl/k3"] > 0


def test_lora_trains_adapters_alone_and_saves_them_merged(world: World) -> None:
    config = PolicyGradientConfig(lr=1e-2, lora=LoraConfig(r=2, alpha=4, targets=("q_proj",)))
    outs, _ = world.update(config)
    before, after = weights(world.policy), weights(outs.policy)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}
    delta = after["model.layers.0.self_attn.q_proj.weight"] - before["model.layers.0.self_attn.q_proj.weight"]
    assert int(torch.linalg.matrix_rank(delta, rtol=1e-3)) <= 2
    assert (outs.trainer.path / "base.safetensors").is_file()


def test_the_critic_learns_values_and_stays_out_of_the_policy_folder(world: World) -> None:
    config = dataclasses.replace(CASES["ppo"], kl=Kl())
    outs, first = world.update(config)
    assert first["critic/value_mean"] == 0
    world.advance(outs)
    outs, second = world.update(config)
    assert second["critic/value_mean"] != 0
    assert weights(outs.policy).keys() == weights(world.policy).keys()


def test_bfloat16_arithmetic_is_measured_against_the_sampler(world: World) -> None:
    outs, metrics = world.update(PolicyGradientConfig(lr=1e-4, dtype="bfloat16"))
    assert 0 < metrics["mismatch/abs_max"] < 0.2
    assert {value.dtype for value in weights(outs.policy).values()} == {torch.bfloat16}
