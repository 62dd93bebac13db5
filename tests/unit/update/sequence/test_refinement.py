"""The past policy in the targets: it must regularise, which rescaling the gradient does not (Decision Mamba section 4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instar.components.continuous.config import Arch
from instar.components.reward.config import RefineConfig
from instar.components.update.sequence.losses import action_loss
from instar.components.update.sequence.probe import gradient_cosine
from instar.components.update.sequence.samples import Sample
from unit.update.sequence.scene import BC, CONFIG, DM, DT, Scene, everywhere, make_scene

ARCHS = {"decision_mamba": DM, "dt": DT, "bc": BC}


def _gradient(model: Any, sample: Sample, target: Tensor) -> Tensor:
    loss = action_loss(model(*sample.inputs()), sample, target)
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.double().flatten() for g in grads if g is not None])


def _released(model: Any, sample: Sample, beta: float) -> Tensor:
    """The published code: the blend holds the current prediction, and gradient flows through it."""
    out = model(*sample.inputs())
    target = (1 - beta) * sample.logged + beta * out.actions
    grads = torch.autograd.grad(action_loss(out, sample, target), list(model.parameters()), allow_unused=True)
    return torch.cat([g.double().flatten() for g in grads if g is not None])


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def _opened(scene: Scene, beta: float, moved: bool) -> tuple[Any, Sample]:
    """Return the learner and the windows of a stage; `moved` has it leave the past policy first."""
    scene.cut(everywhere(scene), beta)
    policy = scene.update(dataclasses.replace(CONFIG, lr=0.05))[0].policy if moved else None
    _, batch, samples, model = scene.open(policy)
    return model, samples.take(torch.arange(batch.size))


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_the_gradient_is_not_a_multiple_of_the_plain_one(tmp_path: Path, arch: Arch) -> None:
    model, sample = _opened(make_scene(tmp_path, arch), 0.5, moved=True)
    plain = _gradient(model, sample, sample.logged)
    assert _cosine(_gradient(model, sample, sample.target), plain) < 0.99
    ratio = _released(model, sample, 0.5) / plain
    assert (
        float((ratio[plain.abs() > 1e-7] - 0.25).abs().max()) < 1e-3
    )  # exactly (1 - beta)^2: no regularisation at all


def test_at_the_start_of_a_stage_it_is_one_and_the_metric_is_taken_at_its_end(tmp_path: Path) -> None:
    """While the learner is the past policy, prediction - target = (1 - beta) (prediction - logged)."""
    scene = make_scene(tmp_path)
    model, sample = _opened(scene, 0.5, moved=False)
    plain, refined = (_gradient(model, sample, t) for t in (sample.logged, sample.target))
    torch.testing.assert_close(refined, 0.5 * plain, rtol=1e-4, atol=1e-6)
    _, batch, samples, _ = scene.open()
    start = gradient_cosine(model, samples, torch.arange(batch.size).numpy())
    _, metrics = scene.update(dataclasses.replace(CONFIG, lr=0.05))
    assert start == pytest.approx(1.0, abs=1e-6) and metrics["cosine_pser"] < 0.999


def test_the_schedule_reaches_the_loss_and_the_first_stage_has_none(tmp_path: Path) -> None:
    """Same windows, same policy; only beta of `RefineConfig` differs."""
    schedule = RefineConfig(stages=4, beta_end=0.85, beta_cap=0.5)
    betas = [schedule.beta(k) for k in (1, 2, 3)]
    assert betas == pytest.approx([0.0, 0.425, 0.5])
    losses, shifts, logged = [], [], []
    for stage, beta in enumerate(betas):
        scene = make_scene(tmp_path / str(stage))
        scene.cut(everywhere(scene), max(beta, 0.1))  # actions recorded in every stage
        scene.scores = [dataclasses.replace(s, components={"beta": beta}) for s in scene.scores]
        _, metrics = scene.update()
        losses.append(metrics["loss_before"])
        shifts.append(metrics["target_shift"])
        logged.append(metrics["loss/logged"])
        assert (metrics["loss/logged"] == metrics["loss/action"]) == (beta == 0)
        assert metrics["beta"] == pytest.approx(beta)
    assert losses[0] > losses[1] > losses[2]  # the past policy is where the learner starts
    assert max(logged) < 1.3 * min(
        logged
    )  # comparable between stages, which the loss is not: it shrinks with (1 - beta)^2
    assert losses[2] < 0.6 * losses[0]
    assert shifts[0] == 0 and shifts[1] / shifts[2] == pytest.approx(0.425 / 0.5, rel=1e-5)


def test_beta_0_with_and_without_actions_is_the_same_update(tmp_path: Path) -> None:
    with_actions, without = (make_scene(tmp_path / name) for name in "ab")
    with_actions.cut(everywhere(with_actions), 0.5)
    with_actions.scores = [dataclasses.replace(s, components={"beta": 0.0}) for s in with_actions.scores]
    without.cut(everywhere(without))
    files = [
        {p.name: p.read_bytes() for p in scene.update()[0].policy.path.iterdir()} for scene in (with_actions, without)
    ]
    assert files[0] == files[1]


def test_a_large_beta_keeps_the_policy_near_the_past_one(tmp_path: Path) -> None:
    moves = []
    for name, beta in (("plain", 0.0), ("refined", 0.9)):
        scene = make_scene(tmp_path / name, BC)
        scene.cut(everywhere(scene) * 10, beta)
        outs, _ = scene.update(dataclasses.replace(CONFIG, lr=1e-3, warmup_steps=0))
        _, batch, samples, before = scene.open()
        _, _, _, after = scene.open(outs.policy)
        sample = samples.take(torch.arange(batch.size))
        with torch.no_grad():
            gap = (after(*sample.inputs()).actions - before(*sample.inputs()).actions)[sample.mask]
        moves.append(float(gap.abs().mean()))
    assert moves[1] < 0.9 * moves[0]
