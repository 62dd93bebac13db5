"""Episodes as columns, returns-to-go by hand, and lossless round trips through Arrow, Parquet and Minari."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import schema
from instar.components.dataset_prep.offline.episodes import Episodes, build, concat, returns_to_go
from instar.components.dataset_prep.offline.minari import read_minari, write_minari
from instar.components.dataset_prep.offline.table import from_table, read_parquet, to_table, write_parquet
from instar.errors import ArtifactError, ContractError
from instar.rows import RolloutRow
from unit.offline.cases import hopper_like, same


def test_returns_to_go_by_hand() -> None:
    rewards = np.array([1.0, 2.0, 3.0, -1.0, 10.0, 0.5])
    assert returns_to_go(rewards, np.array([3, 1, 2])).tolist() == [6.0, 5.0, 3.0, -1.0, 10.5, 0.5]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_returns_to_go_end_at_the_last_reward_and_never_cross_an_episode(lengths: list[int], seed: int) -> None:
    rewards = np.random.default_rng(seed).normal(size=sum(lengths)) * 100
    values = returns_to_go(rewards, np.array(lengths))
    start = 0
    for length in lengths:
        r, g = rewards[start : start + length], values[start : start + length]
        assert g[-1] == r[-1] and np.array_equal(g[:-1], g[1:] + r[:-1])
        start += length


def test_offsets_slices_and_returns(hopper: Episodes) -> None:
    assert hopper.offsets.tolist() == [0, 4, 5, 1005, 1012]
    assert hopper.spans()[1] == slice(4, 5)
    assert hopper.returns[1] == hopper.rewards[4]
    assert np.allclose(hopper.returns, hopper.returns_to_go[hopper.offsets[:-1]], rtol=1e-12, atol=1e-9)


def test_select_keeps_whole_episodes_in_the_order_asked(hopper: Episodes) -> None:
    part = hopper.select([3, 1])
    assert part.lengths.tolist() == [7, 1] and part.seeds.tolist() == [10, 8]
    assert np.array_equal(part.observations, np.concatenate([hopper.observations[1005:], hopper.observations[4:5]]))
    same(hopper.select(hopper.truncated), hopper.select([2]))
    assert hopper.select([]).num_steps == 0


def test_concat_of_the_parts_is_the_whole(hopper: Episodes) -> None:
    same(concat([hopper.select([0, 1]), hopper.select([2, 3])]), hopper)


def test_two_environments_are_refused(hopper: Episodes, mixed: Episodes) -> None:
    with pytest.raises(ContractError, match=r"one environment: Hopper-v5.*Pendulum-v1.*source 1"):
        concat([hopper, mixed])


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match=r"shape \(5,\).*found shape \(4,\).*file:rewards"):
        build(
            "e",
            action_low=[-1],
            action_high=[1],
            lengths=[2, 3],
            observations=np.zeros((5, 2)),
            actions=np.zeros((5, 1)),
            rewards=np.zeros(4),
            terminated=[True, True],
            truncated=[False, False],
            tier="t",
            behaviour="b",
            where="file",
        )


def test_a_terminal_state_outweighs_a_time_out() -> None:
    zeros = np.zeros((1, 1))
    both = build(
        "e",
        action_low=[-1],
        action_high=[1],
        lengths=[1],
        observations=zeros,
        actions=zeros,
        rewards=[0.0],
        terminated=[True],
        truncated=[True],
        tier="t",
        behaviour="b",
    )
    assert both.terminated.tolist() == [True] and both.truncated.tolist() == [False]


def test_the_table_is_made_of_rollout_rows(hopper: Episodes) -> None:
    table = to_table(hopper)
    schema.check(RolloutRow, table, "here")
    row = next(iter(schema.from_table(RolloutRow, table)))
    assert (row.kind, row.arm, row.policy, row.seed, row.token_ids, row.steps) == (
        "continuous",
        "medium",
        "test",
        7,
        [],
        [],
    )
    assert row.observations == hopper.observations[:4].astype(np.float64).ravel().tolist()
    assert row.returns_to_go[-1] == row.rewards[-1] == hopper.rewards[3]
    assert table.column("truncated").to_pylist() == [False, False, True, False]


def test_arrow_and_parquet_round_trips_are_lossless(hopper: Episodes, tmp_path: Path) -> None:
    same(from_table(to_table(hopper)), hopper, final=False)
    write_parquet(hopper, tmp_path / "a.parquet")
    write_parquet(hopper, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    same(read_parquet(tmp_path / "a.parquet"), hopper, final=False)


def test_a_table_that_was_cut_out_of_a_larger_one_is_read_right(hopper: Episodes) -> None:
    same(from_table(to_table(hopper).slice(1, 2)), hopper.select([1, 2]), final=False)


@pytest.mark.parametrize("fault", ["end lost", "hole", "empty"])
def test_a_damaged_parquet_file_is_named(hopper: Episodes, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(hopper, path)
    data, middle = path.read_bytes(), path.stat().st_size // 2
    hole = data[:middle] + bytes(2000) + data[middle + 2000 :]
    path.write_bytes({"end lost": data[:-50], "hole": hole, "empty": b""}[fault])
    with pytest.raises(ArtifactError, match=r"a\.parquet"):
        read_parquet(path)


def _replace(table: pa.Table, name: str, cells: list[list[float]]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(cells, field.type))


def test_a_row_of_other_dimensions_is_named(hopper: Episodes) -> None:
    table = to_table(hopper)
    cells = table.column("observations").to_pylist()
    cells[1] = cells[1][:8]
    with pytest.raises(ContractError, match="11 numbers, 11 a step; found 8; at x:observations of episode 1"):
        from_table(_replace(table, "observations", cells), "x")


def test_stored_returns_to_go_that_do_not_add_up_are_named(hopper: Episodes) -> None:
    table = to_table(hopper)
    cells = table.column("returns_to_go").to_pylist()
    cells[2][500] += 0.5
    with pytest.raises(ContractError, match="episode 2, step 499"):
        from_table(_replace(table, "returns_to_go", cells))


def test_a_table_without_its_environment_is_refused(hopper: Episodes) -> None:
    with pytest.raises(ContractError, match=r"instar.continuous"):
        from_table(to_table(hopper).replace_schema_metadata(None))


def test_minari_round_trip_is_lossless(hopper: Episodes, tmp_path: Path) -> None:
    folder = write_minari(hopper, tmp_path, "hopper/test-v0")
    for path in (folder, folder.parent, folder / "main_data.hdf5"):
        same(read_minari(path), hopper)
    with pytest.raises(ArtifactError, match="new folder"):
        write_minari(hopper, tmp_path, "hopper/test-v0")


def test_unknown_final_observations_stay_unknown(hopper: Episodes, tmp_path: Path) -> None:
    unknown = from_table(to_table(hopper))
    assert unknown.final_observations is None
    read = read_minari(write_minari(unknown, tmp_path, "u-v0"))
    assert read.final_observations is None
    same(read, unknown)


def test_minari_itself_reads_what_is_written(mixed: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari(mixed, tmp_path, "pendulum/mixed-v0", references=(-1230.3, -151.1), algorithm="swing-up")
    loaded = minari.load_dataset("pendulum/mixed-v0", download=False)
    assert (loaded.total_episodes, loaded.total_steps, loaded.env_spec.id) == (30, 6000, "Pendulum-v1")
    episode = loaded[12]
    assert episode.observations.shape == (201, 3)
    assert next(iter(loaded.storage.get_episode_metadata([12])))["seed"] == 12
    assert np.array_equal(episode.actions, mixed.actions[2400:2600])
    assert episode.truncations.tolist() == [False] * 199 + [True] and not episode.terminations.any()
    score = minari.get_normalized_score(loaded, np.array([-1230.3, -151.1]))
    assert np.allclose(score, [0.0, 1.0])
    assert loaded.recover_environment().spec.id == "Pendulum-v1"


@pytest.mark.filterwarnings("ignore:`:UserWarning")  # about an author and a link, which this data set has not
def test_what_minari_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari, gymnasium = pytest.importorskip("minari"), pytest.importorskip("gymnasium")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, buffers = gymnasium.make("Pendulum-v1"), []
    for seed in (3, 4):
        state, _ = env.reset(seed=seed)
        states, acts, rewards, over = [state], [], [], False
        while not over:
            acts.append(env.action_space.sample())
            state, reward, _, over, _ = env.step(acts[-1])
            states.append(state)
            rewards.append(reward)
        buffers.append(
            EpisodeBuffer(
                id=len(buffers),
                seed=seed,
                observations=states,
                actions=acts,
                rewards=rewards,
                terminations=[False] * 200,
                truncations=[False] * 199 + [True],
            )
        )
    minari.create_dataset_from_buffers("pendulum/walk-v0", buffer=buffers, env=env, algorithm_name="random walk")
    read = read_minari(tmp_path / "pendulum/walk-v0")
    assert (read.env, read.lengths.tolist(), read.seeds.tolist()) == ("Pendulum-v1", [200, 200], [3, 4])
    assert read.action_low.tolist() == [-2.0] and read.truncated.all() and not read.terminated.any()
    assert np.array_equal(read.observations[200:], np.asarray(buffers[1].observations[:-1]))
    assert (read.tier[0], read.behaviour[0]) == ("walk", "random walk")


@pytest.mark.parametrize("fault", ["straddle", "no end array", "short", "truncated", "missing", "count"])
def test_faults_in_a_minari_data_set_are_named(hopper: Episodes, tmp_path: Path, fault: str) -> None:
    import h5py

    folder = write_minari(hopper, tmp_path, "t-v0")
    data, metadata = folder / "main_data.hdf5", folder / "metadata.json"
    error, words = {
        "straddle": (ContractError, r"terminations of 1000 steps.*one at step 41; at .*episode_2"),
        "no end array": (ContractError, r"an array 'truncations'.*episode_2"),
        "short": (ContractError, r"1001 observations, one more than rewards; found 1000; .*episode_2"),
        "truncated": (ArtifactError, r"complete HDF5 file.*main_data"),
        "missing": (ArtifactError, r"metadata\.json.*nothing is downloaded"),
        "count": (ArtifactError, r"expected 5 episodes.*found 4"),
    }[fault]
    with h5py.File(data, "a") as file:
        group: Any = file["episode_2"]
        if fault == "straddle":
            group["terminations"][41] = True
        elif fault == "no end array":
            del group["truncations"]
        elif fault == "short":
            states = group["observations"][:-1]
            del group["observations"]
            group.create_dataset("observations", data=states)
    if fault == "truncated":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif fault == "missing":
        metadata.unlink()
    elif fault == "count":
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"total_episodes": 5}))
    with pytest.raises(error, match=words):
        read_minari(folder)


def test_hopper_like_data_ends_as_it_should() -> None:
    episodes = hopper_like([1000, 3])
    assert episodes.truncated.tolist() == [True, False] and episodes.terminated.tolist() == [False, True]


@pytest.mark.parametrize(
    "text",
    ['{"env":', "[]", '{"env": "Hopper-v5"}', '{"env": "A", "state_dim": 3, "action_low": [-1], "action_high": []}'],
)
def test_metadata_that_does_not_describe_an_environment_is_a_contract_error(hopper: Episodes, text: str) -> None:
    table = to_table(hopper).replace_schema_metadata({b"instar.continuous": text.encode()})
    with pytest.raises(ContractError, match=r"state_dim.*found .*at a\.parquet; write it with"):
        from_table(table, where="a.parquet")


@pytest.mark.parametrize("spec", ["{", "{}", ["Hopper-v5"]])
def test_a_minari_description_without_an_environment_is_a_contract_error(
    hopper: Episodes, spec: object, tmp_path: Path
) -> None:
    folder = write_minari(hopper, tmp_path, "hopper/test-v0")
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"env_spec": spec}))
    with pytest.raises(ContractError, match=r"gymnasium's description.*metadata\.json:env_spec"):
        read_minari(folder.parent)
