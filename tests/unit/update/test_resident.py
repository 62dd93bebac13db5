"""What stays in memory between updates: the same bits as through files, and a clear error where it is gone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from instar.components.policy_io import MODEL, RESIDENT, cast_copy, fingerprint, load_model, row_name
from instar.components.rollout.engine import check_canary
from instar.components.rollout.llama_forward import refusal
from instar.components.update.config import Kl, LoraConfig, PolicyGradientConfig
from instar.components.update.learner import at_rest
from instar.components.update.presets import preset
from instar.errors import ArtifactError, ContractError, EngineError, LedgerError
from instar.resident import Resident
from unit.update.world import World, make_world, tiny_llama

CASES = {
    "float32": PolicyGradientConfig(lr=1e-3, schedule="cosine", warmup_steps=1, total_steps=20, weight_decay=0.01),
    "bfloat16": PolicyGradientConfig(lr=1e-3, dtype="bfloat16"),
    "ppo": preset("ppo", lr=1e-3, critic_lr=1e-2, kl=Kl()),
    "lora": PolicyGradientConfig(lr=1e-3, lora=LoraConfig(r=2, alpha=4)),
}


def _segment(world: World, config: PolicyGradientConfig, durable: list[bool], resident: Resident) -> list[Path]:
    """Run one update per entry and return the folders of the last."""
    for keep in durable:
        world.durable = keep
        outs, _ = world.update(config, resident)
        world.advance(outs, resident)
    assert world.trainer is not None
    return [world.policy.path, world.trainer.path]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_steps_in_memory_end_in_the_same_bytes_as_steps_through_files(tmp_path: Path, name: str) -> None:
    """Three steps of which only the last outlives the process, against three that each write and read everything."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fused = _segment(make_world(tmp_path / "a"), CASES[name], [False, False, True], Resident())
    rounds = make_world(tmp_path / "b")
    for _ in range(2):
        _segment(rounds, CASES[name], [True], Resident())
    written = _segment(rounds, CASES[name], [True], Resident())
    assert [_files(folder) for folder in fused] == [_files(folder) for folder in written]


@pytest.mark.parametrize("name", ["float32", "lora"])
def test_a_step_that_is_not_durable_writes_no_weights(world: World, name: str) -> None:
    resident = Resident()
    policy, trainer = _segment(world, CASES[name], [False], resident)
    names = {name for name in _files(policy) if not name.startswith("adapter/")}
    assert RESIDENT in names and not any(n.endswith((".safetensors", ".bin")) for n in names)
    assert set(_files(trainer)) == {"trainer.json", "optimizer.safetensors"}
    assert (trainer / "optimizer.safetensors").stat().st_size < 100
    model = load_model(world.policy, world.context(resident))
    assert world.policy.read_json(RESIDENT)["fingerprint"] == fingerprint(model)
    assert world.policy.read_json(RESIDENT)["num_parameters"] == sum(p.numel() for p in model.parameters())


def test_weights_that_are_gone_are_an_error(world: World) -> None:
    resident = Resident()
    _segment(world, CASES["float32"], [False], resident)
    with pytest.raises(ArtifactError, match="weights were only in memory"):
        load_model(world.policy, world.context())
    resident.drop("t1")
    with pytest.raises(LedgerError, match="run the segment again"):
        world.update(CASES["float32"], resident)


def test_a_model_that_somebody_changed_does_not_meet_its_state(world: World) -> None:
    resident = Resident()
    _segment(world, CASES["float32"], [False], resident)
    model = load_model(world.policy, world.context(resident))
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    with pytest.raises(LedgerError, match="other weights"):
        world.update(CASES["float32"], resident)


def test_the_optimiser_is_not_read_again_in_the_same_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = Resident()
    _segment(world, CASES["bfloat16"], [True], resident)
    copy = resident.get(MODEL, "digest1")
    assert world.trainer is not None
    (world.trainer.path / "optimizer.safetensors").unlink()
    (world.policy.path / "model.safetensors").unlink()
    (world.trainer.path / "masters.safetensors").unlink()
    (world.trainer.path / "optimizer.safetensors").touch()
    monkeypatch.setattr("instar.components.update.memory.count_parameters", lambda folder: 1)
    outs, metrics = world.update(CASES["bfloat16"], resident)
    assert metrics["updates"] == 1
    # The policy is the working copy: it goes on, refreshed, and nobody finds it under the old digest.
    assert resident.waiting(MODEL, outs.policy) is copy
    assert not any(digest == "digest1" for _, digest in resident)


def test_moments_wait_where_the_configuration_says() -> None:
    """`meta` stands for the device: nothing can be copied from it."""
    moments = {"exp_avg/w": torch.zeros(3, device="meta")}
    assert at_rest(moments, "device") is moments
    with pytest.raises(NotImplementedError, match="meta"):
        at_rest(moments, "host")


def test_a_step_without_signal_keeps_the_policy(world: World) -> None:
    """A constant reward in memory, after a real step: the digest stays, then a durable one writes the weights."""
    resident = Resident()
    _segment(world, CASES["float32"], [False], resident)
    before = _files(world.policy.path)
    for durable in (False, True):
        world.durable = durable
        world.scored(lambda row: 1.0)
        outs, metrics = world.update(CASES["float32"], resident)
        assert metrics["updates"] == 0
        if durable:
            assert (outs.policy.path / "model.safetensors").is_file()
            assert not (outs.policy.path / RESIDENT).exists()
        else:
            assert _files(outs.policy.path) == before
        world.advance(outs, resident)
    model = load_model(world.policy, world.context())
    assert fingerprint(model) == before_fingerprint(before)


@pytest.mark.parametrize(("name", "durable", "steps"), [("float32", True, 0), ("ppo", False, 1)])
def test_weights_that_an_update_left_alone_are_no_old_weights(
    world: World, name: str, durable: bool, steps: int
) -> None:
    """A constant reward: weights that were in memory alone are written down, or a critic learns alone. The digest is another,
    and the canary rightly says the same."""
    resident = Resident()
    if durable:
        _segment(world, CASES[name], [False], resident)
    check_canary(world.context(resident), world.policy, -1.0)
    before, world.durable = world.policy.digest, durable
    world.scored(lambda row: 1.0)
    outs, metrics = world.update(CASES[name], resident)
    world.advance(outs, resident)
    assert metrics["updates"] == steps and world.policy.digest != before
    check_canary(world.context(resident), world.policy, -1.0)
    _segment(world, CASES[name], [True], resident)
    with pytest.raises(EngineError, match="canary"):
        check_canary(world.context(resident), world.policy, -1.0)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "lora"])
def test_recomputed_activations_leave_the_model_as_it_came(world: World, name: str) -> None:
    """What stays behind makes the sampler fall back to the slow forward pass, which rounds otherwise."""
    resident = Resident()
    _segment(world, dataclasses.replace(CASES[name], gradient_checkpointing="on"), [False], resident)
    model = load_model(world.policy, world.context(resident))
    assert refusal(model) == ""
    assert not [name for name, m in model.named_modules() if m.training or m._forward_hooks or m._forward_pre_hooks]
    assert not [name for name, m in model.named_modules() if "forward" in vars(m)]


def before_fingerprint(files: dict[str, bytes]) -> str:
    import json

    return str(json.loads(files[RESIDENT])["fingerprint"])


def test_a_first_step_without_signal_on_bfloat16_weights(tmp_path: Path) -> None:
    """The policy stays as it is on disk, in its own type, and the state continues it."""
    world = make_world(tmp_path)
    tiny_llama(dtype=torch.bfloat16).save_pretrained(world.policy.path)
    world.scored(lambda row: 1.0)
    resident = Resident()
    before = _files(world.policy.path)
    _segment(world, CASES["float32"], [False], resident)
    assert _files(world.policy.path) == before
    assert load_model(world.policy, world.context(resident)).dtype == torch.bfloat16
    outs, metrics = world.update(PolicyGradientConfig(lr=1e-3), resident)
    assert metrics["updates"] == 1 and (outs.policy.path / RESIDENT).is_file()


def test_a_cast_copy_keeps_buffers_and_ties() -> None:
    model = tiny_llama()
    half = cast_copy(model, torch.bfloat16, "cpu")
    assert half.lm_head.weight is half.model.embed_tokens.weight
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.float32
    assert half.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


@pytest.mark.parametrize("name", CASES)
def test_rows_have_one_name_for_weights_in_memory_and_in_files(tmp_path: Path, name: str) -> None:
    """So a table says the same under both clocks. Adapters are merged, and a bfloat16 policy is rounded, before it is named."""
    names = []
    for durable in (True, False):
        (tmp_path / f"{durable}").mkdir()
        world, resident = make_world(tmp_path / f"{durable}"), Resident()
        assert row_name(world.policy) == "digest0", "no stage wrote this folder"
        _segment(world, CASES[name], [durable], resident)
        model = load_model(world.policy, world.context(Resident() if durable else resident))
        assert row_name(world.policy) == fingerprint(model)
        names.append(row_name(world.policy))
    assert names[0] == names[1]


@pytest.mark.parametrize("durable", [True, False])
def test_rows_of_the_step_before_are_noticed_wherever_the_weights_are(world: World, durable: bool) -> None:
    resident, config = Resident(), dataclasses.replace(preset("sec"), lr=1e-3)
    _segment(world, config, [durable], resident)
    before, rows = row_name(world.policy), list(world.rollouts)
    _segment(world, config, [durable], resident)
    assert before != row_name(world.policy)
    world.rollouts = rows
    with pytest.raises(ContractError, match=f"rollouts of the weights {row_name(world.policy)}.*{before}"):
        world.update(config, resident)
