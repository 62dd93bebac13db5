"""Parquet with one row per step: the columns, where episodes end, several files, and faults by file, column and row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.dataset_prep.offline import steps
from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.steps import read_steps
from instar.components.dataset_prep.offline.tasks import Simulator
from instar.components.dataset_prep.offline.validate import validate, whole
from instar.errors import ArtifactError, ContractError

CAR = Simulator(id="Car-v0", state_dim=2, action_low=(-1.0,), action_high=(1.0,), max_steps=6)
Columns = dict[str, Any]


def columns(lengths: list[int], ended: bool = True) -> Columns:
    """Return the five columns of episodes 0, 1, ... with these lengths. Step t of episode e observes [e, t] and is paid t."""
    places = [(e, t) for e, length in enumerate(lengths) for t in range(length)]
    return {
        "episode": [e for e, _ in places],
        "observation": [[float(e), float(t)] for e, t in places],
        "action": [[0.25 * (-1) ** t] for _, t in places],
        "reward": [float(t) for _, t in places],
        "done": [ended and t == lengths[e] - 1 for e, t in places],
    }


def write(path: Path, content: Columns) -> Path:
    pq.write_table(pa.table(content), path)
    return path


def read(tmp_path: Path, content: Columns) -> Episodes:
    return read_steps([write(tmp_path / "a.parquet", content)], CAR)


def test_five_columns_are_episodes(tmp_path: Path) -> None:
    episodes = read(tmp_path, columns([3, 6, 1]))
    validate(episodes, max_steps=6)
    assert (episodes.env, episodes.lengths.tolist(), episodes.returns.tolist()) == ("Car-v0", [3, 6, 1], [3, 15, 0])
    assert episodes.observations[3:5].tolist() == [[1, 0], [1, 1]] and set(episodes.tier.tolist()) == {"data"}
    assert episodes.actions[:2].tolist() == [[0.25], [-0.25]]
    assert episodes.terminated.tolist() == [True, False, True], "an episode at the limit of 6 steps was truncated"


def test_an_episode_without_an_end_is_a_piece_and_left_out(tmp_path: Path) -> None:
    content = columns([2, 6, 3])
    content["done"] = [False] * 10 + [True]
    episodes = read(tmp_path, content)
    assert episodes.truncated.tolist() == [True, True, False]
    assert whole(episodes, 6).lengths.tolist() == [6, 3]


@pytest.mark.parametrize(
    ("flags", "terminated"),
    [
        ({"terminated": "FFTFFF", "truncated": "FFFFFT", "done": "FFTFFT"}, [True, False]),
        ({"terminated": "FFTFFF", "truncated": "FFFFFT"}, [True, False]),
        ({"terminated": "FFTFFF", "done": "FFTFFT"}, [True, False]),
        ({"truncated": "FFTFFF", "done": "FFTFFT"}, [False, True]),
        ({"terminated": "FFTFFF"}, [True, False]),
        ({"terminated": "FFTFFT", "truncated": "FFTFFF"}, [True, True]),
    ],
)
def test_flags_say_why_an_episode_ended(flags: dict[str, str], terminated: list[bool], tmp_path: Path) -> None:
    content = columns([3, 3])
    del content["done"]
    for name, marks in flags.items():
        content[name] = [mark == "T" for mark in marks]
    episodes = read(tmp_path, content)
    assert episodes.terminated.tolist() == terminated
    assert episodes.truncated.tolist() == [not ended for ended in terminated]


@pytest.mark.parametrize(
    "types",
    [
        {"observation": pa.list_(pa.float32()), "action": pa.list_(pa.float64()), "reward": pa.int8()},
        {"observation": pa.list_(pa.float32(), 2), "action": pa.list_(pa.float32(), 1), "reward": pa.float32()},
        {"observation": pa.large_list(pa.int64()), "action": pa.float64(), "reward": pa.float64()},
        {"episode": pa.string(), "done": pa.int8()},
        {"episode": pa.large_string(), "done": pa.uint32()},
    ],
)
def test_numbers_and_names_may_have_any_plain_type(types: dict[str, Any], tmp_path: Path) -> None:
    content = columns([2, 3])
    content["action"] = [[1.0]] * 5
    if types.get("action") == pa.float64():
        content["action"] = [1.0] * 5
    if "episode" in types:
        content["episode"] = [f"run-{e}" for e in content["episode"]]
    if "done" in types:
        content["done"] = [int(d) for d in content["done"]]
    typed = {name: pa.array(values, types.get(name)) for name, values in content.items()}
    episodes = read(tmp_path, typed)
    assert episodes.lengths.tolist() == [2, 3] and episodes.actions.tolist() == [[1.0]] * 5
    assert episodes.observations.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]


def test_a_tier_makes_arms(tmp_path: Path) -> None:
    content = columns([2, 1]) | {"tier": ["bad", "bad", "good"], "note": ["not read"] * 3}
    assert read(tmp_path, content).tier.tolist() == ["bad", "good"]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 5), st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=60, deadline=None)
def test_files_and_batches_may_cut_anywhere(lengths: list[int], rows: int, cuts: list[int]) -> None:
    content, total = columns(lengths), sum(lengths)
    borders = sorted({0, total, *(cut for cut in cuts if cut <= total)})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "BATCH_ROWS", rows)
        files = [
            write(Path(folder) / f"{a:02d}.parquet", {name: values[a:b] for name, values in content.items()})
            for a, b in pairwise(borders)
        ]
        episodes = read_steps(files, CAR)
    assert episodes.lengths.tolist() == lengths
    assert episodes.observations.tolist() == content["observation"]


def test_every_file_may_count_its_episodes_from_0(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.parquet", columns([2, 3])) for name in "ab"]
    assert read_steps(files, CAR).lengths.tolist() == [2, 3, 2, 3]


def test_a_file_without_rows_is_no_fault_unless_all_are(tmp_path: Path) -> None:
    empty = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns([2])).slice(0, 0), empty)
    assert read_steps([empty, write(tmp_path / "b.parquet", columns([2]))], CAR).lengths.tolist() == [2]
    with pytest.raises(ContractError, match="at least one step; found none"):
        read_steps([empty], CAR)


def cell(name: str, row: int, value: Any) -> Callable[[Columns], None]:
    """Return what puts a value into one cell."""

    def change(content: Columns) -> None:
        content[name][row] = value

    return change


def column(name: str, values: Any) -> Callable[[Columns], None]:
    """Return what replaces a column, or removes it."""

    def change(content: Columns) -> None:
        content.pop(name)
        if values is not None:
            content[name] = values

    return change


FAULTS: dict[str, tuple[Callable[[Columns], None], str]] = {
    "no column": (column("done", None), "the columns episode, .*, done; found only .*, without done; at .*a.parquet"),
    "other name": (lambda c: c.update(obs=c.pop("observation")), "without observation"),
    "NaN": (
        cell("observation", 3, [1.0, float("nan")]),
        r"finite numbers; found \[1.0, nan\]; at .*:observation, row 3",
    ),
    "infinity": (cell("reward", 4, float("inf")), r"finite numbers; .*a.parquet:reward, row 4"),
    "a hole in a vector": (cell("observation", 1, [None, 1.0]), "finite numbers; .*:observation, row 1"),
    "empty cell": (cell("action", 2, None), "a value in every row; found an empty cell; at .*:action, row 2"),
    "wrong dimension": (cell("observation", 2, [1.0]), "2 numbers, as in Car-v0; found 1; at .*:observation, row 2"),
    "out of bounds": (
        cell("action", 4, [1.5]),
        r"actions between \[-1.0\] and \[1.0\].*found \[1.5\]; at .*:action, row 4; .*clipped to its box",
    ),
    "matrix": (column("observation", [[[1.0, 2.0]]] * 5), "a list of 2 numbers; found the type list"),
    "text": (column("reward", ["1"] * 5), "a number; found the type string; at .*:reward"),
    "a list of rewards": (column("reward", [[1.0]] * 5), "a number; found the type list"),
    "text as flag": (column("done", ["no"] * 5), "a boolean, or 0 and 1; found the type string"),
    "flag 2": (column("done", [0, 1, 0, 0, 2]), "0 or 1; found 2; at .*:done, row 4"),
    "step after the end": (
        cell("done", 3, True),
        "no step after the end of an episode; found '1' again; .*:episode, row 4",
    ),
    "in two places": (
        column("episode", [0, 0, 1, 1, 0]),
        "rows of an episode together; found '0' again; .*:episode, row 4",
    ),
    "numbered by fractions": (
        column("episode", [0.0, 0.0, 1.0, 1.0, 1.0]),
        "whole numbers or texts; found the type double",
    ),
    "flags disagree": (
        lambda c: c.update(terminated=[False] * 5, truncated=[False] * 5),
        "done exactly where terminated or truncated is; found done True, terminated False.*:done, row 1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_file_column_and_row(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two rows, so that rows are counted across batches."""
    monkeypatch.setattr(steps, "BATCH_ROWS", 2)
    plant, message = FAULTS[fault]
    content = columns([2, 3])
    plant(content)
    with pytest.raises(ContractError, match=message):
        read(tmp_path, content)


def test_an_episode_beyond_the_limit_has_lost_its_end(tmp_path: Path) -> None:
    with pytest.raises(
        ContractError, match=r"at most 6 steps, the limit of Car-v0; found one of 7 from here on; at .*row 2"
    ):
        read(tmp_path, columns([2, 7]))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", columns([2, 3]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"a Parquet file; .*a\.parquet"):
        read_steps([path], CAR)


def test_actions_on_the_edge_in_double_precision_are_inside(tmp_path: Path) -> None:
    content = columns([2])
    content["action"] = [[float(np.nextafter(1.0, 2.0))], [-1.0]]
    assert read(tmp_path, content).actions.tolist() == [[1.0], [-1.0]]
