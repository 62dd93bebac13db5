"""Sizes, first weights, storage and configuration of the policies."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from instar.components.continuous.build import MODELS, build, load
from instar.components.continuous.config import (
    Arch,
    BcArch,
    ContinuousTask,
    DecisionMambaArch,
    DecisionTransformerArch,
)
from instar.components.continuous.mixer import Selective
from instar.components.continuous.units import Units
from instar.config import from_dict, merge, to_dict
from instar.errors import ArtifactError, ConfigError
from unit.continuous.cases import ARCHS, TASK, episode, mamba, policy, run, window

PENDULUM = dataclasses.replace(TASK, action_dim=1, action_low=(-2.0,), action_high=(2.0,))


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        # One mixer: in 64*256, conv 128*5, x 128*36, step 5*128, A 128*16, D 128, out 128*64 = 32 640.
        # Layer: 2 mixers, norm 64, group 192*64+64, norm 128 = 77 824; two of them; norm 64.
        # Tokens: encoders 4 288 + 4 416 + 4 288, norm 128, 1000*64; heads: 4 160 + 65, next 195 + 65.
        (DecisionMambaArch(), 2 * 77_824 + 64 + 77_120 + 4_485),
        (DecisionMambaArch(fine=False), 2 * (32_640 + 64) + 64 + 77_120 + 4_485),
        # Shared gate: in 64*256, two scans of 8 064, fine input 64*128, out 128*64, norm 64, group 12 352 = 61 312.
        (DecisionMambaArch(fusion="shared_gate"), 2 * 61_312 + 64 + 77_120 + 4_485),
        # Linear: encoders 128 + 256 + 128, head 65.
        (DecisionMambaArch(encoder="linear", head="linear", auxiliary=False), 2 * 77_824 + 64 + 64_640 + 65),
        # Block: 12 d^2 + 13 d; final norm 2 d.
        (DecisionTransformerArch(), 2 * (12 * 64**2 + 13 * 64) + 128 + 77_120 + 4_225),
        (BcArch(), 4 * 128 + 129 * 128 + 129),
    ],
)
def test_number_of_parameters(arch: Arch, count: int) -> None:
    assert sum(p.numel() for p in build(arch, PENDULUM, 0).parameters()) == count


@pytest.mark.parametrize("name", ARCHS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    before, others = torch.get_rng_state(), random.getstate()
    first, again, other = (build(ARCHS[name], TASK, seed) for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert others == random.getstate()
    assert all(bool(p.isfinite().all()) for p in first.parameters())
    a, b, c = (m.state_dict() for m in (first, again, other))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_an_ablation_starts_from_the_same_weights() -> None:
    full, coarse = (build(mamba(fine=fine), TASK, 1).state_dict() for fine in (True, False))
    assert set(coarse) < set(full)
    assert all(torch.equal(full[k], v) for k, v in coarse.items())


def test_first_weights_of_a_scan() -> None:
    model = build(DecisionMambaArch(), TASK, 0)
    scans = [m for m in model.modules() if isinstance(m, Selective)]
    assert len(scans) == 4
    for scan in scans:
        torch.testing.assert_close(-scan.A_log.exp(), -torch.arange(1.0, 17.0).expand(128, 16))
        assert torch.equal(scan.D, torch.ones(128))
        step = F.softplus(scan.dt_proj.bias.detach())
        assert 1e-3 * 0.999 <= float(step.min()) < 2e-3
        assert 5e-2 < float(step.max()) <= 1e-1 * 1.001
        assert float(scan.dt_proj.weight.detach().abs().max()) <= 0.5  # rank 4


def test_first_timestep_vectors_are_as_long_as_tokens() -> None:
    model = build(DecisionMambaArch(), TASK, 0)
    weights = dict(model.named_parameters())["tokens.timesteps.weight"].detach()
    assert abs(float(weights.std()) - 1.0) < 0.02
    assert abs(float(weights.mean())) < 0.02


def test_what_weight_decay_leaves_alone() -> None:
    names = build(mamba(layers=1, encoder="linear", head="linear"), TASK, 0).no_decay_names()
    scan = ["A_log", "D", "conv_bias", "dt_proj.bias"]
    assert names == {
        *(f"layers.0.{kind}.selective.{name}" for kind in ("coarse", "fine") for name in scan),
        *(f"layers.0.{name}" for name in ("norm.weight", "group.bias", "fine_norm.weight", "fine_norm.bias")),
        *(f"tokens.{kind}.first.bias" for kind in ("returns", "states", "actions")),
        *("tokens.norm.weight", "tokens.norm.bias", "norm.weight"),
        *(f"heads.{name}.bias" for name in ("action", "next_state", "next_return")),
    }


def test_units_are_the_tasks() -> None:
    """State (2.5, -1, 1) standardises to (1, 0, 2); the box's corner (2, 0) is (1, -1); the way back is exact."""
    units = build(BcArch(), TASK, 0).units
    assert units.standardise(torch.tensor([2.5, -1.0, 1.0])).tolist() == [1.0, 0.0, 2.0]
    assert units.from_box(torch.tensor([2.0, 0.0])).tolist() == [1.0, -1.0]
    assert units.to_box(torch.tensor([1.0, -1.0])).tolist() == [2.0, 0.0]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_no_rounding_leaves_the_box(low: float, size: float) -> None:
    """The middle plus the half of a box may round beyond its corner, and an environment would refuse the action."""
    units = Units(1, 1)
    units.action_low.copy_(torch.tensor([low]))
    units.action_high.copy_(torch.tensor([low + size]))
    acted = units.to_box(torch.tensor([[-1.0], [-0.3], [1.0]]))
    assert bool((acted >= units.action_low).all())
    assert bool((acted <= units.action_high).all())


@pytest.mark.parametrize("name", ARCHS)
def test_storage_is_bit_exact(name: str, tmp_path: Path) -> None:
    model = build(ARCHS[name], TASK, 4)
    before = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert type(again) is type(model)
    assert again.arch == model.arch
    assert again.task == model.task
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    a, b = model.state_dict(), again.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)
    w = window(2, 6, kind=torch.float32)
    assert torch.equal(run(model, w).actions, run(again, w).actions)
    assert torch.equal(episode(model, w), episode(again, w))
    again.save_pretrained(tmp_path / "second")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_all_models_name_their_type() -> None:
    for name, kind in MODELS.items():
        assert kind.config_class.model_type == name


def stored(tmp_path: Path) -> Path:
    build(ARCHS["two_mixers"], TASK, 4).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value"), [("gone", None), ("layers.0.norm.weight", None), ("layers.0.norm.weight", torch.ones(9))]
)
def test_wrong_weights_are_refused(key: str, value: torch.Tensor | None, tmp_path: Path) -> None:
    file = stored(tmp_path) / "model.safetensors"
    weights = load_file(file)
    changed = {**weights, key: torch.ones(8) if value is None else value}
    if value is None and key in weights:
        del changed[key]
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=key):
        load(tmp_path)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    file = stored(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cut short"):
        load(tmp_path)
    file.unlink()
    with pytest.raises(ArtifactError, match="readable checkpoint"):
        load(tmp_path)


def test_a_changed_config_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "task": {**config["task"], "state_mean": [0.0, 0.0, 0.0]}}))
    with pytest.raises(ArtifactError, match="state_mean"):
        load(tmp_path)
    file.write_text(json.dumps({**config, "arch": {**config["arch"], "widht": 8}}))
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        load(tmp_path)
    file.write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ArtifactError, match="llama"):
        load(tmp_path)
    file.write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"strategy": "decision_mamba", "width": 0}, "width"),
        ({"strategy": "decision_mamba", "layers": 0}, "layers"),
        ({"strategy": "decision_mamba", "fusion": "both"}, "fusion"),
        ({"strategy": "decision_mamba", "grouping": "released", "fine": False}, "fine"),
        ({"strategy": "decision_mamba", "heads": 2}, "heads"),
        ({"strategy": "decision_transformer", "heads": 3}, "heads"),
        ({"strategy": "bc", "window": -1}, "window"),
        ({"strategy": "decision_mambo"}, "decision_mamba"),
    ],
)
def test_bad_architectures_are_config_errors(data: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        from_dict(Arch, data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state_mean", (0.0, 0.0)),
        ("state_std", (1.0, 0.0, 1.0)),
        ("action_low", (2.0, 0.0)),
        ("action_high", (float("inf"), 1.0)),
        ("return_scale", 0.0),
        ("state_dim", 0),
    ],
)
def test_bad_tasks_are_config_errors(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field.partition("_")[0]):
        dataclasses.replace(TASK, **{field: value})  # type: ignore[arg-type]


def test_configs_survive_json_and_swaps() -> None:
    for arch in ARCHS.values():
        assert from_dict(Arch, json.loads(json.dumps(to_dict(arch)))) == arch
    assert from_dict(ContinuousTask, json.loads(json.dumps(to_dict(TASK)))) == TASK

    @dataclasses.dataclass(frozen=True)
    class Holder:
        arch: Arch

    swapped = merge(Holder(mamba(7)), {"arch": {"strategy": "decision_transformer"}}).arch
    assert (swapped.strategy, swapped.window, swapped.width) == ("decision_transformer", 7, 8)


def test_configs_load_no_torch() -> None:
    code = "import instar.components.continuous.config, sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_training_lowers_the_loss() -> None:
    """Every architecture can tell two states apart within 30 updates; all its parameters get a gradient."""
    w = window(4, 6, kind=torch.float32)
    target = torch.tanh(w.states[..., :2] * 0.5)
    for name, arch in ARCHS.items():
        model = policy(arch, kind=torch.float32).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
        losses = []
        for _ in range(30):
            out = run(model, w)
            loss = (out.actions - target).square().mean()
            if out.next_states is not None and out.next_returns is not None:
                loss = loss + 0.01 * (out.next_states.square().mean() + out.next_returns.square().mean())
            optimiser.zero_grad()
            loss.backward()
            missing = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
            assert not missing, (name, missing)
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0], (name, losses[0], losses[-1])
