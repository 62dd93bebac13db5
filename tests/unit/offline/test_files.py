"""A path whose layout is not said: which reader it gets, who names the environment, and a data set of the real Minari."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instar.components.dataset_prep.offline import pendulum
from instar.components.dataset_prep.offline.config import FilesSource
from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.files import read_files
from instar.components.dataset_prep.offline.minari import write_minari
from instar.components.dataset_prep.offline.simulate import play
from instar.components.dataset_prep.offline.table import write_parquet
from instar.errors import ArtifactError, ConfigError, ContractError, InstarError
from unit.offline.cases import same
from unit.offline.test_readers import written

CAR = "MountainCarContinuous-v0"


@pytest.fixture(scope="module")
def driven() -> Episodes:
    """Two episodes that reach the flag."""

    def push(state: np.ndarray) -> np.ndarray:
        return np.array([1.0 if state[1] >= 0 else -1.0], np.float32)

    return play(CAR, push, [0, 1], tier="driven", behaviour="script", episodes=2)


def stepwise(path: Path, episodes: Episodes) -> Path:
    """Write the five columns."""
    ends = np.isin(np.arange(episodes.num_steps), episodes.offsets[1:] - 1)
    content = {
        "episode": np.repeat(np.arange(episodes.num_episodes), episodes.lengths),
        "observation": episodes.observations.tolist(),
        "action": episodes.actions.tolist(),
        "reward": episodes.rewards,
        "done": ends,
    }
    pq.write_table(pa.table(content), path)
    return path


def read(path: Path, env: str = "") -> Episodes:
    return read_files(FilesSource(path=str(path), env=env))


def test_every_layout_gives_the_same_episodes(driven: Episodes, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "recorded").mkdir()
    stepwise(tmp_path / "steps" / "a.parquet", driven.select([0]))
    stepwise(tmp_path / "steps" / "b.parquet", driven.select([1]))
    write_parquet(driven, tmp_path / "recorded" / "driven.parquet")
    folder = write_minari(driven, tmp_path / "minari", "car/driven-v0")
    d4rl = written(tmp_path / "driven.hdf5", driven, next_observations=True)
    for path, env in (
        (tmp_path / "steps", CAR),
        (tmp_path / "recorded", ""),
        (tmp_path / "recorded" / "driven.parquet", CAR),
        (folder, ""),
        (folder.parent, CAR),
        (folder / "main_data.hdf5", ""),
        (d4rl, CAR),
    ):
        episodes = read(path, env)
        assert (episodes.env, episodes.lengths.tolist()) == (CAR, driven.lengths.tolist()), path
        assert episodes.terminated.all() and np.array_equal(episodes.rewards, driven.rewards)
        assert np.array_equal(episodes.observations, driven.observations)
        assert np.array_equal(episodes.actions, driven.actions)
    assert read(d4rl, CAR).tier.tolist() == ["driven"] * 2, "the name of the file"


@pytest.mark.filterwarnings("ignore:`:UserWarning")  # about an author and a link, which this data set has not
def test_what_minari_itself_writes_of_any_environment_is_read(
    driven: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert driven.final_observations is not None
    buffers = [
        EpisodeBuffer(
            id=number,
            seed=int(driven.seeds[number]),
            observations=[*driven.observations[steps], driven.final_observations[number]],
            actions=list(driven.actions[steps]),
            rewards=driven.rewards[steps].tolist(),
            terminations=[False] * (int(driven.lengths[number]) - 1) + [True],
            truncations=[False] * int(driven.lengths[number]),
        )
        for number, steps in enumerate(driven.spans())
    ]
    minari.create_dataset_from_buffers(
        "car/driven-v0", buffer=buffers, env=gymnasium.make(CAR), algorithm_name="script"
    )
    same(read(tmp_path / "car" / "driven-v0"), driven)


@pytest.mark.parametrize("layout", ["steps", "d4rl"])
def test_files_that_name_no_environment_need_one(layout: str, driven: Episodes, tmp_path: Path) -> None:
    path = stepwise(tmp_path / "a.parquet", driven) if layout == "steps" else written(tmp_path / "a.hdf5", driven)
    with pytest.raises(ConfigError, match=r"these files do not name it; .*add --env ID"):
        read(path)


@pytest.mark.parametrize("layout", ["recorded", "minari"])
def test_files_of_another_environment_than_the_named_one_are_refused(layout: str, tmp_path: Path) -> None:
    episodes = pendulum.tier(1.0, [0])
    path = tmp_path / "a.parquet"
    if layout == "recorded":
        write_parquet(episodes, path)
    else:
        path = write_minari(episodes, tmp_path, "pendulum/t-v0")
    with pytest.raises(ContractError, match=f"episodes of {CAR}.*; found episodes of Pendulum-v1"):
        read(path, CAR)


def test_a_path_without_such_files_is_told_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    cases: list[tuple[Path, type[InstarError], str]] = [
        (tmp_path / "absent", ArtifactError, "Parquet files, a Minari data set, or an HDF5 file.*found nothing"),
        (tmp_path, ArtifactError, "found a folder with notes.txt"),
        (tmp_path / "notes.txt", ArtifactError, "found a file 'notes.txt'"),
        (tmp_path / "main_data.hdf5", ArtifactError, "metadata"),
    ]
    for path, error, message in cases:
        with pytest.raises(error, match=message):
            read(path, CAR)


def test_a_folder_of_both_layouts_is_refused(driven: Episodes, tmp_path: Path) -> None:
    write_parquet(driven, tmp_path / "a.parquet")
    stepwise(tmp_path / "b.parquet", driven)
    with pytest.raises(ContractError, match=r"b\.parquet"):
        read(tmp_path)
