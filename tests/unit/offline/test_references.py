"""References and targets: as set, as published, or from the data. The label says which."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.components.dataset_prep.offline.config import EpisodesSource, FilesSource
from instar.components.dataset_prep.offline.episodes import Episodes, build
from instar.components.dataset_prep.offline.references import best_return, random_episodes, with_references
from instar.components.dataset_prep.offline.table import write_parquet
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS, find_simulator
from instar.errors import ConfigError
from instar.seeds import seed
from unit.offline.test_prepare import config, prepare, stored

CAR = "MountainCarContinuous-v0"


def seeds(item: str) -> int:
    return seed("test", 0, "dataset_prep", item)


def episodes(returns: list[float], tiers: str | list[str] = "data", env: str = CAR) -> Episodes:
    """Return episodes of one step, whose rewards are the returns."""
    simulator, count = find_simulator(env), len(returns)
    return build(
        env,
        action_low=simulator.action_low,
        action_high=simulator.action_high,
        lengths=[1] * count,
        observations=np.zeros((count, simulator.state_dim)),
        actions=np.zeros((count, simulator.action_dim)),
        rewards=returns,
        terminated=[True] * count,
        truncated=[False] * count,
        tier=tiers,
        behaviour="test",
    )


def source(**changes: Any) -> FilesSource:
    return FilesSource(path="a.parquet", env=CAR, **changes)


def test_the_best_data_is_a_tier_or_a_tenth_of_the_episodes() -> None:
    assert best_return(episodes([1.0, 5.0, 2.0, 3.0], ["a", "b", "a", "b"])) == (4.0, "the best tier of the data (b)")
    assert best_return(episodes([float(n) for n in range(20)])) == (18.5, "the best tenth of the data")
    assert best_return(episodes([1.0, 7.0])) == (7.0, "the best tenth of the data")


def test_random_actions_are_measured_in_the_simulator_and_the_rest_is_from_the_data() -> None:
    """The published mean return of random actions in this environment is about -33: 999 steps of 0.1 a^2, a uniform."""
    data = episodes([10.0, -40.0, 90.0])
    environment = with_references(find_simulator(CAR), data, source(), seeds)
    assert environment.random == pytest.approx(-33.3, abs=1.0)
    assert environment.random == random_episodes(CAR, seeds).returns.mean()
    assert (environment.expert, environment.targets, environment.scale) == (90.0, (90.0,), 90.0)
    assert environment.probes == ((environment.random + 90.0) / 2,)
    assert environment.label == f"{CAR}, 0 random actions (measured, 20 episodes), 1 the best tenth of the data"


def test_settings_come_first_and_leave_the_target_to_the_data() -> None:
    environment = with_references(
        find_simulator(CAR), episodes([10.0]), source(random_return=-30.0, expert_return=95.0), seeds
    )
    assert (environment.random, environment.expert, environment.targets) == (-30.0, 95.0, (10.0,))
    assert environment.references == "0 random_return, 1 expert_return"


def test_published_references_stay_unless_one_is_set() -> None:
    hopper, data = ENVIRONMENTS["Hopper-v5"], episodes([1.0], env="Hopper-v5")
    assert with_references(hopper, data, source(), seeds) is hopper
    changed = with_references(hopper, data, source(expert_return=3000.0), seeds)
    assert changed == dataclasses.replace(
        hopper, expert=3000.0, references="0 as published (D4RL-normalised), 1 expert_return"
    )


def test_an_expert_that_is_not_better_than_random_actions_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"found -50 \(the best tenth of the data\) and -30 \(random_return\).*set data"
    ):
        with_references(find_simulator(CAR), episodes([-50.0]), source(random_return=-30.0), seeds)


def test_every_evaluation_task_holds_the_references_and_their_label(tmp_path: Path) -> None:
    """Data of a Parquet file that names its environment, through the source that existed before."""
    write_parquet(episodes([10.0, 80.0]), tmp_path / "t.parquet")
    result = prepare(tmp_path, config(EpisodesSource(path=str(tmp_path / "t.parquet"))))
    tasks = [task for task in result.outs.tasks.read() if task.split != "train"]
    references = [json.loads(task.reference) for task in tasks]
    assert {reference["expert"] for reference in references} == {80.0}
    assert {reference["source"].split(", ", 1)[1] for reference in references} == {
        "0 random actions (measured, 20 episodes), 1 the best tenth of the data"
    }
    asked = {task.split: json.loads(task.features)["target_return"] for task in tasks}
    assert asked["val"] == asked["id"] == 80.0 > asked["probe"] == (references[0]["random"] + 80.0) / 2
    assert stored(result.outs.policy)["task"]["return_scale"] == 80.0
