"""Slices, buckets, label noise, statistics, references: properties and numbers worked out by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.dataset_prep.offline import tasks
from instar.components.dataset_prep.offline.cutting import return_buckets, slices
from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.noise import add_action_noise
from instar.components.dataset_prep.offline.statistics import state_statistics, tier_summary
from instar.components.dataset_prep.offline.tasks import (
    ENVIRONMENTS,
    TASKS,
    Simulator,
    find_simulator,
    find_task,
    normalised,
)
from instar.errors import ConfigError
from unit.offline.cases import hopper_like, same


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_every_step_starts_in_exactly_one_slice(lengths: list[int], window: int) -> None:
    cut = slices(hopper_like(lengths), window)
    starts = Counter((s.episode, t) for s in cut for t in range(s.start, s.end))
    assert starts == Counter((e, t) for e, length in enumerate(lengths) for t in range(length))
    for episode, length in enumerate(lengths):
        sizes = [s.end - s.start for s in cut if s.episode == episode]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) < 2 * window or length == max(sizes) == 1 or len(sizes) == 1
    assert len({s.task_id for s in cut}) == len(cut)


def test_segments_by_hand() -> None:
    cut = slices(hopper_like([1000, 7, 25]), 20)
    by_episode = [[(s.start, s.end) for s in cut if s.episode == e] for e in range(3)]
    assert len(by_episode[0]) == 50 and by_episode[0][1] == (20, 40)
    assert by_episode[1:] == [[(0, 7)], [(0, 25)]]
    assert cut[-1].task_id == "medium/train/00051"
    assert slices(hopper_like([30]), 20)[0].end == 15  # 1.5 windows become two of 15, not one of 30
    with pytest.raises(ConfigError, match="window >= 1"):
        slices(hopper_like([3]), 0)


def test_segments_are_numbered_within_their_arm(mixed: Episodes) -> None:
    cut = slices(mixed, 10)
    assert len(cut) == 600 and [s.task_id for s in cut[199:201]] == ["eps1/train/00199", "eps0.7/train/00000"]
    bucketed = slices(mixed, 10, return_buckets(mixed.returns, 2))
    assert Counter(s.tier for s in bucketed) == {"q0": 300, "q1": 300}


def test_buckets_split_by_rank_and_ties_keep_their_order() -> None:
    assert return_buckets(np.array([5.0, 1.0, 3.0, 2.0, 4.0]), 2) == ["q1", "q0", "q0", "q0", "q1"]
    assert return_buckets(np.array([1.0, 1.0, 1.0, 1.0]), 2) == ["q0", "q0", "q1", "q1"]
    assert return_buckets(np.arange(11.0), 11)[-1] == "q10" and return_buckets(np.arange(11.0), 11)[0] == "q00"
    with pytest.raises(ConfigError, match="1 to 3 buckets"):
        return_buckets(np.zeros(3), 4)


def test_noise_changes_the_chosen_share_and_nothing_else(hopper: Episodes) -> None:
    noisy, changed = add_action_noise(hopper, std=0.3, share=0.25, unit="steps", seed=5)
    assert changed.sum() == 253
    assert np.array_equal((noisy.actions != hopper.actions).any(axis=1), changed)
    assert np.abs(noisy.actions).max() <= 1.0
    for name in ("observations", "rewards", "returns_to_go", "lengths"):
        assert getattr(noisy, name) is getattr(hopper, name)
    again, _ = add_action_noise(hopper, std=0.3, share=0.25, unit="steps", seed=5)
    same(again, noisy)
    other, _ = add_action_noise(hopper, std=0.3, share=0.25, unit="steps", seed=6)
    assert not np.array_equal(other.actions, noisy.actions)


def test_noise_on_whole_episodes(hopper: Episodes) -> None:
    noisy, changed = add_action_noise(hopper, std=0.1, share=0.5, unit="episodes", seed=1)
    per_episode = [set(changed[s].tolist()) for s in hopper.spans()]
    assert all(len(values) == 1 for values in per_episode) and sum(True in v for v in per_episode) == 2
    inside = changed[:, None] & (np.abs(hopper.actions) < 0.5)
    assert 0.05 < (noisy.actions - hopper.actions)[inside].std() < 0.15 or inside.sum() < 30


def test_noise_of_a_larger_share_contains_that_of_a_smaller(hopper: Episodes) -> None:
    small, few = add_action_noise(hopper, std=0.2, share=0.1, unit="steps", seed=3)
    large, many = add_action_noise(hopper, std=0.2, share=0.6, unit="steps", seed=3)
    assert (few <= many).all() and np.array_equal(small.actions[few], large.actions[few])


def test_no_noise_is_no_change(hopper: Episodes) -> None:
    for std, share in ((0.0, 1.0), (0.5, 0.0)):
        noisy, _ = add_action_noise(hopper, std=std, share=share, unit="steps", seed=0)
        same(noisy, hopper)
    for std, share in ((-1.0, 0.5), (0.1, 1.5), (float("nan"), 0.5), (float("inf"), 0.5)):
        with pytest.raises(ConfigError, match="share in"):
            add_action_noise(hopper, std=std, share=share, unit="steps", seed=0)


def test_state_statistics_over_all_steps(hopper: Episodes) -> None:
    found = state_statistics(hopper)
    assert np.allclose(found.mean, hopper.observations.mean(axis=0), atol=1e-6)
    assert np.allclose(found.std, hopper.observations.std(axis=0), atol=2e-6)
    constant = hopper_like([3])
    constant.observations[:] = 2.0
    found = state_statistics(constant)
    assert np.all(found.std == 1e-6) and np.all(found.mean == 2.0)


def test_tier_summary(mixed: Episodes) -> None:
    summary = tier_summary(mixed)
    assert list(summary) == ["eps1", "eps0.7", "eps0.4"]
    assert [s["steps"] for s in summary.values()] == [2000.0] * 3
    assert summary["eps1"]["mean_return"] < summary["eps0.7"]["mean_return"] < summary["eps0.4"]["mean_return"]


@pytest.mark.parametrize("env", list(ENVIRONMENTS))
def test_anchors_of_the_normalised_score(env: str) -> None:
    reference = ENVIRONMENTS[env]
    middle = (reference.random + reference.expert) / 2
    scores = normalised(env, [reference.random, reference.expert, middle])
    assert np.allclose(scores, [0.0, 1.0, 0.5], atol=1e-12)


def test_published_references() -> None:
    """Returns of Table 1 tasks: 100 * (R - random) / (expert - random) by hand."""
    assert 100 * normalised("Hopper-v5", 1000.0).item() == pytest.approx(31.349, abs=1e-3)
    assert 100 * normalised("HalfCheetah-v5", 5000.0).item() == pytest.approx(42.5300, abs=1e-3)
    assert ENVIRONMENTS["Walker2d-v5"].label == "Walker2d-v5, D4RL-normalised"


@pytest.mark.parametrize("env", list(ENVIRONMENTS))
def test_declared_environments_are_those_of_gymnasium(env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium")
    if env != "Pendulum-v1":
        pytest.importorskip("mujoco")
    declared = ENVIRONMENTS[env]
    monkeypatch.setattr(tasks, "ENVIRONMENTS", {})  # so that the simulator itself is asked
    facts = {field.name: getattr(declared, field.name) for field in dataclasses.fields(Simulator)}
    assert find_simulator(env) == Simulator(**facts)


def test_the_nine_tasks_of_the_paper_are_there() -> None:
    assert len(TASKS) == 10 and find_task("hopper-medium").targets == (3600.0,)
    assert find_task("hopper-medium-replay").environment.encoder == "linear"
    assert find_task("halfcheetah-medium-expert").targets == (12000.0,)
    assert set(find_task("halfcheetah-medium").targets) == {12000.0, 8000.0, 6000.0, 4500.0}
    with pytest.raises(ConfigError, match="hopper-medium"):
        find_task("hoper-medium")
