"""The update as a stage: what it learns, what it reports, and that it can stop and go on without a trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from instar.artifact import Policy
from instar.components.continuous.config import Arch, DecisionMambaArch
from instar.components.policy_io import MODEL, load_model
from instar.resident import Resident
from unit.update.sequence.scene import BC, CONFIG, DM, DT, SCALE, Scene, everywhere, make_scene, weights

ARCHS = {"decision_mamba": DM, "shared_gate": dataclasses.replace(DM, fusion="shared_gate"), "dt": DT, "bc": BC}


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def _twice(scene: Scene, beta: float = 0.5) -> tuple[list[dict[str, bytes]], list[dict[str, float]]]:
    """Run two updates on different windows and return all files and metrics of the second."""
    outs, first = scene.cut(everywhere(scene), beta).update()
    scene.advance(outs)
    outs, second = scene.cut(everywhere(scene)[::-1], beta).update()
    return [_files(o.path) for o in (outs.policy, outs.trainer, outs.stats)], [first, second]


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_every_architecture_learns_through_the_same_code(tmp_path: Path, arch: Arch) -> None:
    scene = make_scene(tmp_path, arch, lengths=(8, 8)).cut([(i, s) for i in (0, 1) for s in range(8)] * 6)
    before = weights(load_model(scene.policy, scene.context()))
    outs, metrics = scene.update(dataclasses.replace(CONFIG, probe=96))
    assert metrics["updates"] == 24 and metrics["num_windows"] == 96
    assert metrics["loss_after"] < 0.8 * metrics["loss_before"]
    after = load_model(outs.policy, scene.context())
    assert all(not torch.equal(before[name], p) for name, p in after.named_parameters() if p.ndim >= 2)
    auxiliary = getattr(arch, "auxiliary", False)
    parts = {"loss/action", "loss/logged"} | ({"loss/state", "loss/return"} if auxiliary else set())
    assert {k for k in metrics if k.startswith("loss/")} == parts


def test_a_constant_is_learned(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, lengths=(5, 5))
    scene.episodes = [
        dataclasses.replace(e, states=np.full((5, 2), 0.5), actions=np.full((5, 1), 1.2), rewards=np.zeros(5))
        for e in scene.episodes
    ]
    scene.cut(everywhere(scene) * 40)
    _, metrics = scene.update(dataclasses.replace(CONFIG, lr=2e-2, schedule="linear", total_steps=100))
    assert metrics["loss_before"] > 0.1 and metrics["loss_after"] < 1e-4


def test_two_updates_equal_plain_torch(tmp_path: Path) -> None:
    """The same two stages written out: padding, losses, clipping, warm-up and AdamW, by torch's own pieces."""
    scene = make_scene(tmp_path)
    model: Any = load_model(scene.policy, scene.context())
    plain: Any = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    skip = {n for n, p in plain.named_parameters() if p.ndim < 2 or n.endswith("A_log")}
    groups = [
        {"params": [p for n, p in plain.named_parameters() if (n in skip) == out], "weight_decay": 0.0 if out else 0.1}
        for out in (False, True)
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, eps=1e-6, foreach=False)
    config = dataclasses.replace(CONFIG, weight_decay=0.1)
    for stage, beta in enumerate((0.0, 0.4)):
        scene.cut(everywhere(scene), beta)
        _, batch, samples, _ = scene.open()
        for start in range(0, batch.size, 4):
            s = samples.take(torch.arange(start, min(start + 4, batch.size)))
            out = plain(*s.inputs())
            action = F.mse_loss(out.actions[s.mask], s.target[s.mask])
            state = F.smooth_l1_loss(out.next_states[s.follows], s.next_states[s.follows])
            returns = F.smooth_l1_loss(out.next_returns[s.follows], s.next_returns[s.follows])
            adam.zero_grad()
            (0.9 * action + 0.05 * state + 0.05 * returns).backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.25)
            for group in adam.param_groups:
                group["lr"] = 1e-2 * min(1.0, (stage * 3 + start // 4 + 1) / 3)
            adam.step()
        outs, metrics = scene.update(config)
        assert metrics["updates"] == 3 and metrics["lr"] == pytest.approx((1e-2 * 2 / 3, 1e-2)[stage])
        scene.advance(outs)
    trained = weights(load_model(scene.policy, scene.context()))
    for name, p in plain.named_parameters():
        torch.testing.assert_close(trained[name], p.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arch", [DM, DT, BC], ids=["decision_mamba", "dt", "bc"])
def test_a_resumed_evolution_equals_an_unbroken_one(tmp_path: Path, arch: Arch) -> None:
    resident = Resident()
    unbroken = make_scene(tmp_path / "a", arch)
    outs, _ = unbroken.cut(everywhere(unbroken), 0.5).update(resident=resident)
    unbroken.advance(outs, resident)
    assert resident.get(MODEL, "digest1") is not None
    whole, _ = unbroken.cut(everywhere(unbroken)[::-1], 0.5).update(resident=resident)
    files, _ = _twice(make_scene(tmp_path / "b", arch))  # reads everything from disk again
    assert [_files(o.path) for o in (whole.policy, whole.trainer, whole.stats)] == files


def test_equal_inputs_give_equal_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    first, metrics = _twice(make_scene(tmp_path / "a"))
    second, again = _twice(make_scene(tmp_path / "b"))
    other, _ = _twice(make_scene(tmp_path / "c", seed=1))
    assert first == second and first[0]["model.safetensors"] != other[0]["model.safetensors"]
    assert [{k: v for k, v in m.items() if not k.startswith("perf/")} for m in metrics] == [
        {k: v for k, v in m.items() if not k.startswith("perf/")} for m in again
    ]
    assert torch.equal(state, torch.random.get_rng_state())


def test_rows_are_used_in_the_order_of_their_slots(tmp_path: Path) -> None:
    straight, mixed = (make_scene(tmp_path / name) for name in "ab")
    for scene in (straight, mixed):
        scene.cut(everywhere(scene))
    order = np.random.default_rng(0).permutation(len(mixed.rollouts))
    mixed.rollouts = [mixed.rollouts[i] for i in order]
    mixed.scores = [mixed.scores[i] for i in order]
    mixed.slots = mixed.slots[::-1]
    assert _files(straight.update()[0].policy.path) == _files(mixed.update()[0].policy.path)


def test_statistics_and_metrics_by_hand(tmp_path: Path) -> None:
    """With as many probed windows as there are, every sum is a plain sum."""
    scene = make_scene(tmp_path).cut(everywhere(make_scene(tmp_path / "same")))
    config = dataclasses.replace(CONFIG, probe=1000)
    before = _window_losses(scene, scene.policy)
    outs, metrics = scene.update(config)
    after = _window_losses(scene, outs.policy)
    arms = np.array([row.arm for row in scene.rollouts])
    for row in outs.stats.read():
        mine = arms == row.arm
        assert row.num_prompts == row.num_rollouts == row.num_kept == mine.sum()
        assert row.sum_reward == pytest.approx(sum(s.reward or 0 for s, m in zip(scene.scores, mine, strict=True) if m))
        assert row.sum_loss == pytest.approx(before[mine].sum(), rel=1e-5)
        assert row.sum_loss_change == pytest.approx((before - after)[mine].sum(), rel=1e-4, abs=1e-5)
        assert row.sum_correct is None and row.sum_abs_advantage is None and row.num_zero_variance == 0
    # Lengths 6 and 1 are `good`, 5 is `poor`; windows of at most 4 steps from every start.
    assert {row.arm: row.sum_tokens for row in outs.stats.read()} == {"good": 4 + 4 + 4 + 3 + 2 + 1 + 1, "poor": 14}
    assert metrics["num_steps"] == 33 and metrics["num_windows"] == 12
    assert metrics["loss_before"] == pytest.approx(before.mean(), rel=1e-5)
    assert metrics["loss_after"] == pytest.approx(after.mean(), rel=1e-5)
    assert metrics["arm/poor/loss_before"] == pytest.approx(before[arms == "poor"].mean(), rel=1e-5)
    assert metrics["beta"] == 0 and metrics["target_shift"] == 0 and metrics["cosine_pser"] == 1


def _window_losses(scene: Scene, policy: Policy) -> Any:
    """Return the loss of every window alone, without any padding."""
    model: Any = load_model(policy, scene.context())
    mean, std = torch.tensor([0.5, -0.5]), torch.tensor([2.0, 0.5])
    out = []
    for row in scene.rollouts:
        e = next(e for e in scene.episodes if e.name == row.task_id)
        start, total = row.offset, len(e.rewards)
        end = min(start + 4, total)
        states, actions = (torch.tensor(np.asarray(v), dtype=torch.float32) for v in (e.states, e.actions))
        rtg = torch.tensor(np.cumsum(e.rewards[::-1])[::-1].copy() / SCALE, dtype=torch.float32)
        mask = torch.ones(1, end - start, dtype=torch.bool)
        with torch.no_grad():
            got = model(
                states[None, start:end],
                actions[None, start:end],
                rtg[None, start:end],
                torch.arange(start, end)[None],
                mask,
            )
        loss = 0.9 * F.mse_loss(got.actions[0], actions[start:end] / 2)
        nexts = min(end + 1, total)
        if nexts > start + 1:
            n = nexts - start - 1
            loss += 0.05 * F.smooth_l1_loss(got.next_states[0, :n], (states[start + 1 : nexts] - mean) / std)
            loss += 0.05 * F.smooth_l1_loss(got.next_returns[0, :n], rtg[start + 1 : nexts])
        out.append(float(loss))
    return np.array(out)


def test_windows_of_single_steps_have_no_auxiliary_loss(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, lengths=(1, 1, 1)).cut([(0, 0), (1, 0), (2, 0)])
    _, metrics = scene.update()
    assert metrics["loss/state"] == metrics["loss/return"] == 0 and metrics["loss/action"] > 0
    assert metrics["num_steps"] == 3


def test_a_width_that_is_no_multiple_of_16_and_one_layer(tmp_path: Path) -> None:
    arch = DecisionMambaArch(
        width=10, layers=1, state_size=3, window=3, max_timestep=9, encoder="linear", head="linear"
    )
    scene = make_scene(tmp_path, arch)
    _, metrics = scene.cut(everywhere(scene)).update()
    assert metrics["num_steps"] == (3 + 3 + 3 + 3 + 2 + 1) + (3 + 3 + 3 + 2 + 1) + 1
