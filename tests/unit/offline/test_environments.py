"""Environments by id: which are described and opened, and why others are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from instar.components.continuous.config import ContinuousTask
from instar.components.dataset_prep.offline.minari import read_minari, write_minari
from instar.components.dataset_prep.offline.record import make_data
from instar.components.dataset_prep.offline.recording import Job
from instar.components.dataset_prep.offline.simulate import play
from instar.components.dataset_prep.offline.table import read_parquet
from instar.components.dataset_prep.offline.tasks import Simulator, find_simulator
from instar.components.environments import open_environment
from instar.components.evaluate.simulators import open_environments, time_limit
from instar.errors import ConfigError, ContractError
from unit.offline.cases import same


class Still(gymnasium.Env[Any, Any]):
    """Nothing moves. The reward is the sum of the action, and the shape of the action is checked."""

    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.zeros = np.zeros(observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return zeros."""
        del seed, options
        return self.zeros, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count the force."""
        assert action.shape == self.action_space.shape
        return self.zeros, float(action.sum()), False, False, {}


STATES, ACTIONS = Box(-1.0, 1.0, (2,)), Box(-1.0, 1.0, (1,))
SPACES: dict[str, tuple[Any, Any, int | None]] = {
    "Grid-v0": (Box(-1.0, 1.0, (2, 3)), Box(np.array([[-1.0], [-2.0]], np.float32), 2.0, (2, 1)), 5),
    "Endless-v0": (STATES, ACTIONS, None),
    "Unbounded-v0": (STATES, Box(-np.inf, np.inf, (1,)), 5),
    "Whole-v0": (STATES, Box(-1, 1, (1,), np.int64), 5),
    "Image-v0": (Box(0, 255, (96, 96, 3), np.uint8), ACTIONS, 5),
    "Words-v0": (gymnasium.spaces.Dict({"position": STATES}), ACTIONS, 5),
}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """Register environments with the spaces of the table."""
    for name, (seen, acted, limit) in SPACES.items():
        kwargs = {"observation_space": seen, "action_space": acted}
        gymnasium.register(name, lambda **given: Still(**given), max_episode_steps=limit, kwargs=kwargs)
    yield
    for name in SPACES:
        del gymnasium.registry[name]


def test_an_environment_without_published_settings_is_described_by_its_simulator() -> None:
    assert find_simulator("MountainCarContinuous-v0") == Simulator(
        id="MountainCarContinuous-v0", state_dim=2, action_low=(-1.0,), action_high=(1.0,), max_steps=999
    )


def test_boxes_of_more_axes_are_flattened_for_recording_and_evaluation_alike() -> None:
    simulator = find_simulator("Grid-v0")
    assert (simulator.state_dim, simulator.action_low, simulator.action_high) == (6, (-1.0, -2.0), (2.0, 2.0))
    episodes = play("Grid-v0", lambda _: np.array([0.5, 1.0], np.float32), [0], tier="t", behaviour="b")
    assert episodes.observations.shape == (5, 6) and episodes.returns.tolist() == [7.5]
    task = ContinuousTask(
        env="Grid-v0",
        state_dim=6,
        action_dim=2,
        action_low=simulator.action_low,
        action_high=simulator.action_high,
        state_mean=(0.0,) * 6,
        state_std=(1.0,) * 6,
    )
    assert time_limit(open_environments(task, 1)[0]) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing-v9", "an environment that gymnasium knows; found Environment `Nothing` doesn't exist"),
        ("MountainCarContinuous", "which is MountainCarContinuous-v0 today; .*write MountainCarContinuous-v0"),
        ("os:Nothing-v0", "'os:Nothing-v0', which names a module.*must not choose which code runs"),
        (
            "CartPole-v1",
            r"states Box\(.*and actions Discrete\(2\); at CartPole-v1; choose an environment with continuous actions",
        ),
        ("Words-v0", r"states that are a Box.*found states Dict\('position'"),
        ("Image-v0", "states of at most 4096 numbers; found 27648"),
        ("Unbounded-v0", "finite bounds of every action.*ClipAction or RescaleAction"),
        ("Whole-v0", "actions of floating-point numbers"),
        ("Endless-v0", "a limit of steps, because an episode of a bad policy might never end.*max_episode_steps"),
    ],
)
def test_what_cannot_be_acted_in_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_simulator(name)


def test_a_module_in_an_id_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="names a module"):
        open_environment("harmful:Env-v0")
    assert not (tmp_path / "ran").exists()


def test_data_of_an_environment_without_references_is_recorded(tmp_path: Path) -> None:
    """Nothing says which return is medium or that of an expert: half of the steps, and the best policy met."""
    job = Job(
        env="Grid-v0",
        steps=40,
        tier_steps=10,
        evaluate_every=10,
        evaluate_episodes=1,
        sac={"width": 8, "batch": 8, "warmup": 5},
    )
    content = make_data(job, tmp_path / "grid", lambda _: None)
    assert content["notes"]["medium"] == "the first evaluation after half of the steps"
    assert [point["step"] for point in content["curve"]] == [10, 20, 30, 40]
    medium = read_parquet(tmp_path / "grid" / "medium.parquet")
    assert medium.behaviour[0] == "sac@20" and medium.lengths.tolist() == [5, 5]
    folder = tmp_path / "grid" / "minari" / "grid" / "medium-v0"
    same(read_minari(folder), medium, final=False)
    means = [tier["mean_return"] for tier in content["tiers"].values()]
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (means[0], max(means))


def test_arguments_are_compared_with_the_registered_ones(tmp_path: Path) -> None:
    """Moon-v0 is a pendulum registered with less gravity. Its data name that argument, and it is no change."""
    gymnasium.register(
        "Moon-v0", "gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=4, kwargs={"g": 1.6}
    )
    try:
        episodes = play("Moon-v0", lambda _: np.zeros(1, np.float32), [0], tier="t", behaviour="b")
        folder = write_minari(episodes, tmp_path, "moon/t-v0")
        same(read_minari(folder), episodes)
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata["env_spec"] = metadata["env_spec"].replace('"g": 1.6', '"g": 10.0')
        (folder / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(ContractError, match=r"Moon-v0 as it is registered.*found arguments g"):
            read_minari(folder)
    finally:
        del gymnasium.registry["Moon-v0"]
