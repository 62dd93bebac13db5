"""Offline data that looks right and is not: another environment under the same name, and an episode that never ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.artifact import Rollouts
from instar.components.dataset_prep.offline.config import D4rlSource, EpisodesSource, MinariSource
from instar.components.dataset_prep.offline.episodes import Episodes, build
from instar.components.dataset_prep.offline.minari import read_minari, write_minari
from instar.components.dataset_prep.offline.table import from_table, write_parquet
from instar.components.dataset_prep.offline.validate import whole
from instar.errors import ContractError
from unit.offline.test_prepare import config, prepare

h5py = pytest.importorskip("h5py")


def pendulums(lengths: list[int], box: float = 2.0) -> Episodes:
    """Return episodes of reward -1 a step, all of them truncated."""
    rng, total = np.random.default_rng(0), sum(lengths)
    return build(
        "Pendulum-v1",
        action_low=[-box],
        action_high=[box],
        lengths=lengths,
        observations=rng.normal(size=(total, 3)),
        actions=rng.uniform(-1, 1, (total, 1)),
        rewards=-np.ones(total),
        terminated=[False] * len(lengths),
        truncated=[True] * len(lengths),
        tier="t",
        behaviour="b",
    )


def d4rl(path: Path, lengths: list[int]) -> Path:
    """Write a recording whose last piece has no flag."""
    episodes = pendulums(lengths)
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards"):
            file[name] = getattr(episodes, name)
        file["terminals"] = np.zeros(episodes.num_steps, bool)
        timeouts = np.zeros(episodes.num_steps, bool)
        timeouts[episodes.offsets[1:-1] - 1] = True
        file["timeouts"] = timeouts
    return path


CHANGES: dict[str, dict[str, Any]] = {
    "kwargs": {"kwargs": {"g": 2.0}},
    "additional_wrappers": {"additional_wrappers": [{"name": "TransformReward", "entry_point": "x:Y", "kwargs": {}}]},
    "max_episode_steps": {"max_episode_steps": 400},
}


@pytest.mark.parametrize("field", CHANGES)
def test_data_of_a_changed_environment_is_refused_by_the_field_that_changed_it(field: str, tmp_path: Path) -> None:
    folder = write_minari(pendulums([200, 200]), tmp_path, "pendulum/t-v0")
    _change(folder, CHANGES[field])
    with pytest.raises(ContractError, match=rf"Pendulum-v1.*metadata\.json:env_spec\.{field}"):
        read_minari(folder)


def test_what_only_watches_an_environment_changes_nothing(tmp_path: Path) -> None:
    folder = write_minari(pendulums([200]), tmp_path, "pendulum/t-v0")
    watching = [{"name": "RecordEpisodeStatistics", "entry_point": "gymnasium.wrappers.common:X", "kwargs": {}}]
    _change(folder, {"kwargs": {"render_mode": "rgb_array"}, "additional_wrappers": watching})
    assert read_minari(folder).env == "Pendulum-v1"


@pytest.mark.parametrize("kind", ["minari", "parquet"])
def test_actions_in_other_units_than_the_environments_are_refused(kind: str, tmp_path: Path) -> None:
    scaled = pendulums([200, 200], box=1.0)
    if kind == "minari":
        source: Any = MinariSource(path=str(write_minari(scaled, tmp_path, "pendulum/t-v0")))
    else:
        write_parquet(scaled, tmp_path / "t.parquet")
        source = EpisodesSource(path=str(tmp_path / "t.parquet"))
    with pytest.raises(
        ContractError, match=r"actions within \[-2\.0\] and \[2\.0\].*found actions within \[-1\.0\] and \[1\.0\]"
    ):
        prepare(tmp_path, config(source))


@pytest.mark.parametrize("buckets", [0, 2])
def test_a_piece_of_an_episode_is_never_conditioned_on(buckets: int, tmp_path: Path) -> None:
    """Its return is -8, better than any whole episode's -200: it would be the best arm."""
    path = d4rl(tmp_path / "a.hdf5", [200, 200, 200, 200, 8])
    made = prepare(tmp_path, config(D4rlSource(path=str(path), task="pendulum-mixed"), buckets=buckets))
    data: Rollouts = made.outs.data
    assert from_table(data.table()).returns.tolist() == [-200.0] * 4
    levels = {t.level for t in made.outs.tasks.read() if t.split == "train"}
    assert levels == {-200.0} and made.metrics["num_pieces_left_out"] == 1.0


def test_a_recording_without_one_whole_episode_is_refused(tmp_path: Path) -> None:
    path = d4rl(tmp_path / "a.hdf5", [8])
    with pytest.raises(ContractError, match=r"an episode that ended.*200 steps; found 1 pieces of at most 8 steps"):
        prepare(tmp_path, config(D4rlSource(path=str(path), task="pendulum-mixed")))


def test_the_limit_may_be_counted_from_0_and_a_terminal_state_ends_at_any_length() -> None:
    assert whole(pendulums([200, 199, 198]), 200).lengths.tolist() == [200, 199]
    ended = pendulums([5, 6])
    ended.terminated[:], ended.truncated[:] = [True, False], [False, True]
    assert whole(ended, 200).lengths.tolist() == [5]


def _change(folder: Path, spec: dict[str, Any]) -> None:
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"env_spec": json.dumps(json.loads(content["env_spec"]) | spec)}))
