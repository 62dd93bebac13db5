"""Logged episodes as flat arrays, and windows of them by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import schema
from instar.artifact import Rollouts
from instar.components.trajectories import Trajectories, from_table, open_trajectories
from instar.errors import ContractError
from instar.resident import Resident
from instar.rows import RolloutRow
from support.logged import data, episode


def read(*rows: RolloutRow) -> Trajectories:
    return from_table(schema.to_table(RolloutRow, rows), "here")


def test_flat_arrays_hold_every_step_of_every_episode_in_order() -> None:
    rows = [episode("a", [1.0, 2.0, 4.0]), episode("b", [8.0], arm="good")]
    found = read(*rows)
    assert found.ids == ("a", "b") and found.arms == ("mixed", "good")
    assert found.offsets.tolist() == [0, 3, 4] and found.lengths.tolist() == [3, 1]
    assert found.rewards.tolist() == [1, 2, 4, 8] and found.returns_to_go.tolist() == [7, 6, 4, 8]
    assert found.returns.tolist() == [7, 8]
    assert found.observations.shape == (4, 3) and found.actions.shape == (4, 1)
    assert found.observations[3].tolist() == rows[1].observations
    assert found.find(["b", "a", "b"], "x").tolist() == [1, 0, 1]


def test_windows_are_left_padded_at_the_end_of_an_episode() -> None:
    """K = 3, episodes of 4 and 1 steps: a whole window, the last step alone, and an episode of one step."""
    found = read(episode("a", [1.0, 2.0, 4.0, 8.0]), episode("b", [16.0]))
    windows = found.windows(np.array([0, 0, 0, 1]), np.array([1, 2, 3, 0]), 3)
    assert windows.mask.tolist() == [[True] * 3, [False, True, True], [False, False, True], [False, False, True]]
    assert windows.timesteps.tolist() == [[1, 2, 3], [0, 2, 3], [0, 0, 3], [0, 0, 0]]
    assert windows.rows.tolist() == [[1, 2, 3], [2, 2, 3], [3, 3, 3], [4, 4, 4]]
    assert windows.lengths.tolist() == [3, 2, 1, 1]
    assert windows.last.tolist() == [[False, False, True]] * 4
    assert windows.after[0].tolist() == [2, 3, 3]
    assert found.conditions(windows, 2.0).tolist() == [[7, 6, 4], [0, 6, 4], [0, 0, 4], [0, 0, 8]]
    delayed = found.conditions(windows, 2.0, delayed=True)
    assert delayed.tolist() == [[7.5, 7.5, 7.5], [0, 7.5, 7.5], [0, 0, 7.5], [0, 0, 8]]


def test_a_window_inside_an_episode_has_a_step_after_it() -> None:
    windows = read(episode("a", [1.0] * 9)).windows(np.array([0]), np.array([2]), 3)
    assert not windows.last.any() and windows.after.tolist() == [[3, 4, 5]]


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5), steps=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_real_steps_of_a_window_are_consecutive_and_in_one_episode(
    lengths: list[int], steps: int, seed: int
) -> None:
    found = read(*(episode(f"e{i}", [float(i)] * n) for i, n in enumerate(lengths)))
    generator = np.random.default_rng(seed)
    episodes = generator.integers(0, len(lengths), 20)
    starts = generator.integers(0, found.lengths[episodes])
    windows = found.windows(episodes, starts, steps)
    for row in range(20):
        real = windows.rows[row][windows.mask[row]]
        begin = found.offsets[episodes[row]] + starts[row]
        end = min(begin + steps, found.offsets[episodes[row] + 1])
        assert real.tolist() == list(range(begin, end))
        assert windows.mask[row].tolist() == [False] * (steps - len(real)) + [True] * len(real)
        assert (found.rewards[windows.rows[row]] == episodes[row]).all()  # padding stays in the episode as well


def test_the_arrays_are_read_once_per_digest(tmp_path: Path) -> None:
    resident = Resident()
    first = data(tmp_path / "a", [episode("a", [1.0])], "one")
    found = open_trajectories(first, resident, "update")
    assert open_trajectories(Rollouts(tmp_path / "gone", "one"), resident, "update") is found
    other = data(tmp_path / "b", [episode("b", [1.0])], "two")
    assert open_trajectories(other, resident, "update").ids == ("b",)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([episode("a", [1.0], kind="text")], "kind 'continuous'"),
        ([episode("a", [1.0], offset=3)], "whole episodes"),
        ([episode("a", [1.0]), episode("b", [])], "at least one step"),
        ([episode("a", [1.0, 2.0], observations=[0.0] * 5)], "numbers for each of 2 steps"),
        ([episode("a", [1.0]), episode("b", [1.0, 1.0], actions=[0.0] * 4)], "1 numbers for each of 2 steps"),
        ([episode("a", [1.0], observations=[])], "1 numbers for each of 1 steps"),
        ([episode("a", [1.0, 2.0], returns_to_go=[3.0, 1.0])], "this reward and the return-to-go after it"),
        ([episode("a", [1.0, 2.0]), episode("b", [4.0], returns_to_go=[5.0])], "expected 4,"),
        ([episode("a", [1.0, 2.0], returns_to_go=[3.0, 3.0, 2.0, 2.0])], "one return-to-go per step"),
    ],
)
def test_episodes_that_do_not_fit_together_are_refused(rows: list[RolloutRow], expected: str) -> None:
    with pytest.raises(ContractError, match=expected):
        read(*rows)


def test_a_wrong_return_to_go_is_named_by_episode_and_step() -> None:
    with pytest.raises(ContractError, match=r"of b, step 0"):
        read(episode("a", [1.0, 2.0]), episode("b", [1.0, 2.0, 4.0], returns_to_go=[7.0, 5.0, 4.0]))


def test_no_rows_and_no_data_are_refused() -> None:
    with pytest.raises(ContractError, match="no rows"):
        read()
    with pytest.raises(ContractError, match=r"expected logged trajectories; found none; at update\.data"):
        open_trajectories(None, Resident(), "update")


def test_unknown_episodes_and_starts_outside_are_refused() -> None:
    found = read(episode("a", [1.0, 2.0]))
    with pytest.raises(ContractError, match=r"found 'z'; at rollouts:task_id"):
        found.find(["a", "z"], "rollouts:task_id")
    for start in (-1, 2):
        with pytest.raises(ContractError, match=rf"0\.\.1 of episode a; found {start}"):
            found.windows(np.array([0]), np.array([start]), 4)


def test_a_table_built_by_columns_has_the_bytes_of_one_built_by_rows(tmp_path: Path) -> None:
    rows = [episode("a", [1.0, 2.0]), episode("b", [4.0])]
    one, two = data(tmp_path / "rows", rows), Rollouts(tmp_path)
    halves = [schema.to_table(RolloutRow, rows[:1]), schema.to_table(RolloutRow, rows[1:])]
    two.write_table(pa.concat_tables(halves))
    assert (one.path / "rows.parquet").read_bytes() == (two.path / "rows.parquet").read_bytes()
    broken = schema.to_table(RolloutRow, rows).set_column(3, "kind", pa.array(["continuous", "dance"]))
    with pytest.raises(ContractError, match="kind"):
        two.write_table(broken)
    assert two.read() == rows
