"""Which parameters decay, how probes are spread, and what a trainer state insists on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instar.components.continuous.build import build
from instar.components.policy_io import load_model
from instar.components.update.sequence.config import SequenceConfig
from instar.components.update.sequence.learner import decayed
from instar.components.update.sequence.probe import choose, spread
from instar.errors import ConfigError, LedgerError
from unit.update.sequence.scene import CONFIG, DM, DT, TASK, everywhere, make_scene, weights


def test_norms_biases_and_the_scans_own_parameters_do_not_decay() -> None:
    model: Any = build(DM, TASK, 0)
    names = decayed(model, ssm=False)
    shapes = {name: p.ndim for name, p in model.named_parameters()}
    assert names == {n for n, ndim in shapes.items() if ndim >= 2 and not n.endswith("A_log")}
    assert {n for n in shapes if n.endswith(("A_log", ".D"))} and not {n for n in names if n.endswith((".D", "bias"))}


def test_the_released_rule_decays_them_too_but_not_biases_and_layer_norms() -> None:
    model: Any = build(DM, TASK, 0)
    more = decayed(model, ssm=True) - decayed(model, ssm=False)
    kinds = {name.rpartition(".")[2] for name in more}
    assert kinds == {"A_log", "D", "weight"}
    assert "norm.weight" in more and "layers.0.norm.weight" in more  # RMSNorm
    assert not {"tokens.norm.weight", "layers.0.fine_norm.weight"} & more  # nn.LayerNorm


@pytest.mark.parametrize("ssm", [False, True])
def test_decay_groups_reach_the_optimiser(tmp_path: Path, ssm: bool) -> None:
    """Decay times learning rate of 0.5 with a vanishing gradient step: decayed parameters halve, the others stay."""
    scene = make_scene(tmp_path, DT if not ssm else DM).cut([(0, 0)])
    before = weights(load_model(scene.policy, scene.context()))
    config = SequenceConfig(lr=1e-8, weight_decay=5e7, warmup_steps=0, decay_ssm_params=ssm, batch=4)
    outs, _ = scene.update(config)
    model: Any = load_model(outs.policy, scene.context())
    names = decayed(model, ssm)
    for name, p in model.named_parameters():
        factor = 0.5 if name in names else 1.0
        torch.testing.assert_close(p.detach(), factor * before[name], rtol=1e-5, atol=1e-6)


def test_the_probe_gives_every_arm_its_share() -> None:
    arm = np.array([0] * 100 + [1] * 3 + [2] * 50)
    rows = choose(arm, 3, 33)
    assert np.bincount(arm[rows]).tolist() == [15, 3, 15] and (np.diff(rows) > 0).all()
    assert rows[:4].tolist() == [0, 6, 13, 20]  # even distances
    assert choose(arm, 3, 1).size == 3  # never an arm without a number


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 80))
def test_probe_rows_are_distinct_and_few(arms: list[int], count: int) -> None:
    present = sorted(set(arms))
    arm = np.searchsorted(present, arms)
    rows = choose(arm, len(present), count)
    assert len(set(rows.tolist())) == len(rows) <= max(count, len(present))
    assert set(arm[rows]) == set(range(len(present)))
    if count >= len(arm):
        assert rows.tolist() == list(range(len(arm)))


@given(st.integers(1, 50), st.integers(1, 60))
def test_spread(size: int, count: int) -> None:
    found = spread(np.arange(size), count)
    assert len(set(found.tolist())) == min(size, count) and found[0] == 0


def test_the_trainer_state_counts_and_keeps_the_moments(tmp_path: Path) -> None:
    scene = make_scene(tmp_path).cut(everywhere(make_scene(tmp_path / "same")))
    outs, _ = scene.update()
    record = outs.trainer.read_json("trainer.json")
    assert record["optimizer_steps"] == 3 and record["updates"] == 1 and record["format"] == "sequence-1"
    assert "device" not in record["config"] and record["config"]["weights"] == [0.9, 0.05, 0.05]
    scene.advance(outs)
    outs, _ = scene.cut(everywhere(scene)).update(dataclasses.replace(CONFIG, probe=3))  # may change
    record = outs.trainer.read_json("trainer.json")
    assert record["optimizer_steps"] == 6 and record["updates"] == 2


def test_other_settings_do_not_continue_a_state(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    outs, _ = scene.cut(everywhere(scene)).update()
    scene.advance(outs)
    with pytest.raises(LedgerError, match=r"update.lr=0.01; found lr=0.02"):
        scene.cut(everywhere(scene)).update(dataclasses.replace(CONFIG, lr=2e-2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_absent(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    with pytest.raises(ConfigError, match="CUDA"):
        scene.cut(everywhere(scene)).update(dataclasses.replace(CONFIG, device="cuda"))
