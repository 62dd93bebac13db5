"""D4RL files: cut at flags, every step kept, nothing straddling; lost flags are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.dataset_prep.offline.d4rl import cut, read_d4rl
from instar.components.dataset_prep.offline.episodes import Episodes, concat
from instar.components.dataset_prep.offline.validate import validate
from instar.errors import ArtifactError, ConfigError, ContractError
from unit.offline.cases import hopper_like, same

h5py = pytest.importorskip("h5py")


def following(episodes: Episodes) -> np.ndarray:
    """Return the state after each step."""
    assert episodes.final_observations is not None
    out = np.roll(episodes.observations, -1, axis=0)
    out[episodes.offsets[1:] - 1] = episodes.final_observations
    return out


def written(path: Path, episodes: Episodes, *, timeouts: bool = True, next_observations: bool = False) -> Path:
    """Write a D4RL file, its time-out flags lost on demand."""
    ends = episodes.offsets[1:] - 1
    flags = {"terminals": np.zeros(episodes.num_steps, bool), "timeouts": np.zeros(episodes.num_steps, bool)}
    flags["terminals"][ends] = episodes.terminated
    flags["timeouts"][ends] = episodes.truncated & timeouts
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = episodes.observations, episodes.actions
        file["rewards"] = episodes.rewards
        for name, values in flags.items():
            file[name] = values
        if next_observations:
            file["next_observations"] = following(episodes)
        file.create_group("infos")["qpos"] = np.zeros((episodes.num_steps, 6))
    return path


def test_episodes_come_back_from_a_flat_file(hopper: Episodes, tmp_path: Path) -> None:
    read = read_d4rl(written(tmp_path / "hopper.hdf5", hopper, next_observations=True), "Hopper-v5", "medium")
    validate(read, max_steps=1000)
    assert read.seeds.tolist() == [0] * 4 and read.behaviour.tolist() == ["unknown"] * 4
    for name in ("lengths", "observations", "actions", "rewards", "returns_to_go", "terminated", "truncated", "tier"):
        assert np.array_equal(getattr(read, name), getattr(hopper, name)), name
    assert np.array_equal(read.final_observations, hopper.final_observations)  # type: ignore[arg-type]


def test_time_outs_alone_are_cut_where_they_are_and_not_by_count(tmp_path: Path) -> None:
    """Counting to 999 would give 1000, 999, 999... steps, each of two episodes."""
    episodes = hopper_like([1000] * 4)
    read = read_d4rl(written(tmp_path / "a.hdf5", episodes), "Hopper-v5", "medium")
    assert read.lengths.tolist() == [1000] * 4 and read.truncated.all()
    assert np.array_equal(read.observations[1000], episodes.observations[1000])


def test_a_recording_that_stops_within_an_episode_keeps_its_last_piece(tmp_path: Path) -> None:
    episodes = hopper_like([5, 3, 4])
    path = written(tmp_path / "a.hdf5", episodes)
    with h5py.File(path, "a") as file:
        file["terminals"][11] = False
    read = read_d4rl(path, "Hopper-v5", "medium")
    assert read.lengths.tolist() == [5, 3, 4] and read.num_steps == 12
    assert read.terminated.tolist() == [True, True, False] and read.truncated.tolist() == [False, False, True]


@given(st.lists(st.sampled_from(["", "terminal", "timeout", "both"]), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_cutting_keeps_every_step_and_straddles_nothing(marks: list[str]) -> None:
    terminal, timeout = (np.array([m in (name, "both") for m in marks]) for name in ("terminal", "timeout"))
    lengths = cut(terminal, timeout)
    assert lengths.sum() == len(marks) and lengths.min() >= 1
    ends = np.cumsum(lengths) - 1
    inside = np.setdiff1d(np.arange(len(marks)), ends)
    assert not (terminal | timeout)[inside].any(), "a flag within an episode"
    assert (terminal | timeout)[ends[:-1]].all(), "an episode that ends without a flag"


def test_lost_time_outs_are_found_by_the_time_limit(tmp_path: Path) -> None:
    path = written(tmp_path / "a.hdf5", hopper_like([1000, 1000]), timeouts=False)
    with pytest.raises(ContractError, match=r"at most 1000 steps; found 2000; .*lost time-out flags"):
        read_d4rl(path, "Hopper-v5", "medium")


def test_lost_flags_within_the_time_limit_are_found_by_continuity(tmp_path: Path) -> None:
    episodes = hopper_like([200, 300, 40])
    path = written(tmp_path / "a.hdf5", episodes, next_observations=True)
    with h5py.File(path, "a") as file:
        file["terminals"][199] = False
    with pytest.raises(ContractError, match=r"begins where the step before ended; found a jump.*episode 0, step 199"):
        read_d4rl(path, "Hopper-v5", "medium")


def test_files_without_what_is_needed_are_named(hopper: Episodes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.hdf5", hopper)
    with pytest.raises(ConfigError, match="Did you mean: `Hopper`"):
        read_d4rl(path, "Hoper-v5", "medium")
    with pytest.raises(ContractError, match=r"shape \(1012, 6\).*actions"):
        read_d4rl(path, "HalfCheetah-v5", "medium")
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    with pytest.raises(ContractError, match="an array 'timeouts'"):
        read_d4rl(path, "Hopper-v5", "medium")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ArtifactError, match="complete HDF5 file"):
        read_d4rl(path, "Hopper-v5", "medium")
    with pytest.raises(ArtifactError):
        read_d4rl(tmp_path / "none.hdf5", "Hopper-v5", "medium")


def test_data_of_several_files_joins(tmp_path: Path) -> None:
    a, b = hopper_like([5, 6], 1), hopper_like([1000, 3], 2, "expert")
    parts = [
        read_d4rl(
            written(tmp_path / f"{e.tier[0]}.hdf5", e, next_observations=True), "Hopper-v5", str(e.tier[0]), "test"
        )
        for e in (a, b)
    ]
    joined, expected = concat(parts), concat([a, b])
    expected.seeds[:] = 0
    same(joined, expected)


def test_a_path_without_a_file_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "absent.hdf5", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(ArtifactError, match="nothing is downloaded") as raised:
            read_d4rl(path, "Hopper-v5", "medium")
        assert raised.value.found == found and raised.value.where == str(path)


def test_a_column_that_is_shorter_than_the_rewards_is_named(hopper: Episodes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.hdf5", hopper, next_observations=True)
    for name in ("next_observations", "timeouts"):
        with h5py.File(path, "a") as file:
            kept = file[name][:-1]
            del file[name]
            file[name] = kept
        with pytest.raises(ContractError, match=f"found {hopper.num_steps - 1}; at .*:{name}"):
            read_d4rl(path, "Hopper-v5", "medium")
        with h5py.File(path, "a") as file:
            del file[name]
            file[name] = following(hopper) if name == "next_observations" else np.zeros(hopper.num_steps, bool)
