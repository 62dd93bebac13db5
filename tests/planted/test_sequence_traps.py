"""Failures that supervised learning from logged trajectories passes over in silence: each must be a named error here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from instar.artifact import Policy, TrainerState
from instar.components.continuous.build import build
from instar.components.policy_io import MODEL, load_model
from instar.components.update.sequence.config import SequenceConfig
from instar.errors import ConfigError, ContractError, InstarError, LedgerError, NumericsError, RewardError
from instar.resident import Resident
from unit.update.sequence.scene import BC, CONFIG, DM, TASK, Scene, everywhere, make_scene
from unit.update.world import save_model, tiny_llama


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = make_scene(tmp_path)
    return made.cut(everywhere(made), 0.5)


def _nothing_written(scene: Scene) -> bool:
    folder = scene.root / f"run{scene.runs}"
    return not any(
        (folder / name).exists() and any((folder / name).iterdir()) for name in ("policy", "trainer", "stats")
    )


def _rollout(row: int, **changes: Any) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        scene.rollouts[row] = dataclasses.replace(scene.rollouts[row], **changes)

    return plant


def _score(row: int, **changes: Any) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        scene.scores[row] = dataclasses.replace(scene.scores[row], **changes)

    return plant


def _no_actions(scene: Scene) -> None:
    scene.rollouts = [dataclasses.replace(row, actions=[]) for row in scene.rollouts]


def _other_policy(scene: Scene) -> None:
    scene.rollouts = [dataclasses.replace(row, policy="digest-of-the-stage-before") for row in scene.rollouts]


def _discounted(scene: Scene) -> None:
    for i, (score, row) in enumerate(zip(scene.scores, scene.rollouts, strict=True)):
        rewards = next(e.rewards for e in scene.episodes if e.name == row.task_id)[row.offset :]
        value = float((rewards * 0.99 ** np.arange(len(rewards))).sum() / 2.0)
        scene.scores[i] = dataclasses.replace(score, reward=value)


def _unscaled(scene: Scene) -> None:
    scene.scores = [dataclasses.replace(s, reward=2.0 * (s.reward or 0.0)) for s in scene.scores]


def _swapped(scene: Scene) -> None:
    scene.scores = scene.scores[::-1]


def _lost_rollout(scene: Scene) -> None:
    del scene.rollouts[3], scene.scores[3]


def _two_rollouts(scene: Scene) -> None:
    scene.rollouts[1] = dataclasses.replace(scene.rollouts[1], group_id=scene.rollouts[0].group_id)


def _another_dimension(scene: Scene) -> None:
    scene.episodes = [dataclasses.replace(e, states=np.zeros((len(e.rewards), 3))) for e in scene.episodes]


TRAPS: dict[str, tuple[Callable[[Scene], None], type[InstarError], str]] = {
    "beta without actions": (_no_actions, ContractError, r"beta 0\.5 and no actions"),
    "actions of another window": (_rollout(0, actions=[0.0, 0.0]), ContractError, "4 actions of 1 numbers"),
    "actions of one window lost": (_rollout(2, actions=[]), ContractError, "4 actions .* 0 numbers in row 2"),
    "past policy of an earlier stage": (_other_policy, ContractError, "windows of the weights digest0"),
    "one window of another policy": (_rollout(5, policy="other"), ContractError, "rollouts:policy"),
    "start behind the end": (_rollout(0, offset=6), ContractError, r"a start in 0\.\.5 of episode e0"),
    "an episode that is not logged": (_rollout(0, task_id="e9"), ContractError, "'e9'"),
    "a start moved by one": (_rollout(0, offset=1, actions=[0.0] * 4), RewardError, "return-to-go of e0 at step 1"),
    "labels discounted": (_discounted, RewardError, "return-to-go"),
    "labels not scaled": (_unscaled, RewardError, "over 2"),
    "a label that is not there": (
        _score(4, reward=None, status="failed", reason="no answer"),
        RewardError,
        "1 without: failed no answer",
    ),
    "beta not recorded": (_score(4, components={"shift": 0.1}), RewardError, "part 'beta'"),
    "beta above 1": (_score(4, components={"beta": 1.5}), RewardError, r"1\.5 in row 4"),
    "labels in another order": (_swapped, RewardError, "other rollout ids"),
    "a window lost": (_lost_rollout, ContractError, "12 slots; found 11 rollouts, 1 slots without one"),
    "a slot with two windows": (_two_rollouts, ContractError, "1 slots without one"),
    "data of another environment": (_another_dimension, ContractError, "states of dimension 2"),
}


@pytest.mark.parametrize("name", TRAPS)
def test_inputs_that_would_train_the_wrong_thing(scene: Scene, name: str) -> None:
    plant, error, message = TRAPS[name]
    plant(scene)
    with pytest.raises(error, match=message):
        scene.update()
    assert _nothing_written(scene)


def test_no_data(scene: Scene) -> None:
    with pytest.raises(ContractError, match="logged trajectories"):
        scene.update(data=None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logged_number_that_is_not_finite(scene: Scene, value: float) -> None:
    scene.episodes[0].states[2, 0] = value
    with pytest.raises(ContractError, match=r"not finite; at RolloutRow:observations"):
        scene.update()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_number_too_large_for_single_precision_is_caught_before_anything_is_written(scene: Scene) -> None:
    scene.episodes[0].actions[2, 0] = 1e39
    with pytest.raises(NumericsError, match="probed window"):
        scene.update()
    assert _nothing_written(scene)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_loss_that_is_not_finite_saves_its_windows(tmp_path: Path) -> None:
    """The probe looks elsewhere; the third minibatch holds the only window that reads the bad number."""
    scene = make_scene(tmp_path, lengths=(9, 9, 9))
    scene.episodes[1].actions[8, 0] = 1e39
    scene.cut([(0, i % 5) for i in range(8)] + [(1, 0), (1, 5), (2, 0), (2, 1)])
    with pytest.raises(NumericsError, match=r"windows 8\.\.11.*saved in .*bad-batch"):
        scene.update(dataclasses.replace(CONFIG, probe=2))
    saved = pq.read_table(scene.context().scratch / "bad-batch" / "rollouts.parquet")
    assert saved.column("rollout_id").to_pylist() == [row.rollout_id for row in scene.rollouts[8:]]
    assert pq.read_table(scene.context().scratch / "bad-batch" / "scores.parquet").num_rows == 4
    assert _nothing_written(scene)


def test_weights_that_blow_up_in_the_last_step_are_not_saved(scene: Scene) -> None:
    config = dataclasses.replace(CONFIG, batch=64, lr=1e30, warmup_steps=0)
    with pytest.raises(NumericsError, match="not"):
        scene.update(config)
    assert _nothing_written(scene)


def test_a_missing_trainer_state(scene: Scene) -> None:
    outs, _ = scene.update()
    scene.advance(outs)
    scene.cut(everywhere(scene), 0.5)
    with pytest.raises(LedgerError, match="trainer state of step 0"):
        scene.update(trainer=None)


def test_a_rollback_to_the_first_policy_starts_afresh(scene: Scene) -> None:
    first = scene.policy
    scene.step, scene.reference = 7, first
    outs, _ = scene.cut(everywhere(scene), 0.5).update()
    assert outs.trainer.read_json("trainer.json")["optimizer_steps"] == 3


def test_the_trainer_state_of_another_policy(scene: Scene, tmp_path: Path) -> None:
    outs, _ = scene.update()
    other: Any = build(DM, TASK, 1)
    other.save_pretrained(tmp_path / "other")
    scene.advance(outs)
    scene.policy = Policy(tmp_path / "other", "digest1")
    with pytest.raises(LedgerError, match="another policy"):
        scene.cut(everywhere(scene), 0.5).update()


@pytest.mark.parametrize("name", ["format", "optimizer.safetensors"])
def test_a_trainer_state_that_is_not_one(scene: Scene, name: str) -> None:
    outs, _ = scene.update()
    scene.advance(outs)
    assert isinstance(scene.trainer, TrainerState)
    record = scene.trainer.path / "trainer.json"
    if name == "format":  # what the update of a text policy writes
        record.write_text(json.dumps({**json.loads(record.read_text()), "format": 1}))
    else:
        from safetensors.torch import load_file, save_file

        file = scene.trainer.path / name
        tensors = load_file(file)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, file)
    with pytest.raises(LedgerError, match=r"format|moments"):
        scene.cut(everywhere(scene), 0.5).update()


def test_settings_that_changed_under_way(scene: Scene) -> None:
    outs, _ = scene.update()
    scene.advance(outs)
    with pytest.raises(LedgerError, match=r"update\.weights"):
        scene.cut(everywhere(scene), 0.5).update(dataclasses.replace(CONFIG, weights=(1.0, 0.0, 0.0)))


def test_a_language_model(scene: Scene, tmp_path: Path) -> None:
    scene.policy = save_model(tiny_llama(), tmp_path / "llama", scene.policy.digest)
    with pytest.raises(ContractError, match="a continuous-control policy"):
        scene.update()


def test_the_past_policy_is_never_the_student(tmp_path: Path) -> None:
    """The released code blends in what the learner predicts now. Here targets stay what they were while it moves."""
    scene = make_scene(tmp_path, BC)
    scene.cut(everywhere(scene), 0.5)
    targets = []
    for policy in (scene.policy, scene.update()[0].policy):
        _, batch, samples, _ = scene.open(policy)
        targets.append(samples.take(torch.arange(batch.size)).target)
    assert torch.equal(targets[0], targets[1]) and not targets[0].requires_grad


def test_the_resident_model_of_an_update_that_failed_is_read_again(scene: Scene) -> None:
    """A failed update has changed the model in memory: nobody may find it under the old digest."""
    resident = Resident()
    before = load_model(scene.policy, scene.context(resident))
    assert resident.get(MODEL, "digest0") is before
    with pytest.raises(NumericsError):
        scene.update(dataclasses.replace(CONFIG, batch=64, lr=1e30, warmup_steps=0), resident=resident)
    assert resident.get(MODEL, "digest0") is None
    assert load_model(scene.policy, scene.context(resident)) is not before


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0},
        {"probe": 0},
        {"weights": (0.0, 0.5, 0.5)},
        {"weights": (0.9, -0.1, 0.1)},
        {"lr": 0.0},
        {"max_grad_norm": 0.0},
        {"warmup_steps": -1},
        {"schedule": "cosine", "total_steps": 10, "warmup_steps": 10},
        {"betas": (0.9, 1.0)},
        {"adam_eps": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_settings_that_cannot_train(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SequenceConfig(**changes)
