"""The batched pendulum against gymnasium's, and the tiers that its scripted controller makes."""

from __future__ import annotations

import numpy as np
import pytest

from instar.components.dataset_prep.offline import pendulum
from instar.components.dataset_prep.offline.episodes import Episodes, concat
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS, normalised
from instar.components.dataset_prep.offline.validate import validate
from unit.offline.cases import same


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_recorded_actions_replayed_in_gymnasium_give_the_recorded_episode(rate: float) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    episodes = pendulum.tier(rate, [11, 12, 13])
    assert episodes.final_observations is not None
    env = gymnasium.make("Pendulum-v1")
    for number, steps in enumerate(episodes.spans()):
        ended: list[tuple[bool, bool]] = []
        state, _ = env.reset(seed=int(episodes.seeds[number]))
        for t in range(steps.start, steps.stop):
            assert np.abs(state - episodes.observations[t]).max() < 1e-5
            state, reward, terminated, truncated, _ = env.step(episodes.actions[t])
            assert abs(float(reward) - episodes.rewards[t]) < 1e-5
            ended.append((terminated, truncated))
        assert ended == [(False, False)] * 199 + [(False, True)]
        assert np.abs(state - episodes.final_observations[number]).max() < 1e-5


def test_one_step_by_hand() -> None:
    """At pi/2 and rest, torque 1: speed (15 sin + 3) * 0.05 = 0.9, angle pi/2 + 0.045, reward -(pi/2)^2 - 0.001."""
    angle, speed, reward = pendulum.step(np.array([np.pi / 2]), np.zeros(1), np.ones(1, np.float32))
    assert speed[0] == pytest.approx(0.9) and angle[0] == pytest.approx(np.pi / 2 + 0.045)
    assert reward[0] == pytest.approx(-((np.pi / 2) ** 2) - 0.001)


def test_the_limits_hold() -> None:
    angle, speed, reward = pendulum.step(np.array([np.pi / 2]), np.array([7.9]), np.array([50.0], np.float32))
    assert speed[0] == 8.0 and reward[0] == pytest.approx(-((np.pi / 2) ** 2) - 0.1 * 7.9**2 - 0.004)
    assert pendulum.wrap(np.array([np.pi, -np.pi, 7.0])).tolist() == pytest.approx([-np.pi, -np.pi, 7.0 - 2 * np.pi])
    assert angle[0] == pytest.approx(np.pi / 2 + 0.4)


def test_an_episode_depends_on_its_seed_and_rate_alone() -> None:
    many = pendulum.tier(0.4, [5, 6, 7, 8])
    same(pendulum.tier(0.4, [7]), many.select([2]))
    other = pendulum.tier(0.7, [7])
    assert np.array_equal(other.observations[0], many.select([2]).observations[0])
    assert not np.array_equal(other.actions, many.select([2]).actions)


def test_tiers_are_valid_and_graded(mixed: Episodes) -> None:
    validate(mixed, max_steps=200)
    means = [pendulum.tier(rate, list(range(200))).returns.mean() for rate in (1.0, 0.7, 0.4, 0.2, 0.0)]
    assert means == sorted(means) and means[0] < -1100 and means[-1] > -200


def test_the_share_of_random_actions_is_the_rate() -> None:
    half, none = pendulum.tier(0.5, list(range(40))), pendulum.tier(0.0, list(range(40)))
    first = none.actions[half.offsets[:-1]] != half.actions[half.offsets[:-1]]  # equal start states
    assert 10 <= first.sum() <= 30
    everything = pendulum.tier(1.0, list(range(40))).actions
    assert abs(everything.mean()) < 0.05 and abs(everything.std() - 2 / np.sqrt(3)) < 0.03


def test_references_are_what_the_controller_and_random_torque_reach() -> None:
    """2000 new episodes each, within 4.5 standard errors of the recorded means of 20,000."""
    reference = ENVIRONMENTS["Pendulum-v1"]
    for rate, expected in ((1.0, reference.random), (0.0, reference.expert)):
        returns = concat([pendulum.tier(rate, list(range(2_000_000, 2_002_000)))]).returns
        assert abs(returns.mean() - expected) < 4.5 * returns.std() / np.sqrt(len(returns))
    assert normalised("Pendulum-v1", pendulum.tier(0.0, list(range(500))).returns).mean() == pytest.approx(
        1.0, abs=0.03
    )
