"""Hostile HDF5 files, Minari metadata and Parquet files: each ends in a named error, reads nothing else and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.components.dataset_prep.offline.d4rl import read_d4rl
from instar.components.dataset_prep.offline.minari import read_minari, write_minari
from instar.components.dataset_prep.offline.table import read_parquet, write_parquet
from instar.errors import ArtifactError, ConfigError, ContractError, InstarError
from unit.offline.cases import hopper_like

h5py = pytest.importorskip("h5py")
EXAMPLES = int(os.environ.get("INSTAR_FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
STEPS = 12


def _external_link(file: Any, name: str, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros(STEPS)
    file[name] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def _virtual(file: Any, name: str, folder: Path) -> None:
    layout = h5py.VirtualLayout(shape=(STEPS,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret"), "x", shape=(STEPS,))
    file.create_virtual_dataset(name, layout)


def _cycle(file: Any, name: str, _: Path) -> None:
    file.create_group(name)[name] = h5py.SoftLink("/")


RAW = {"shape": (STEPS,), "dtype": "u1"}
ARRAYS: dict[str, Callable[[Any, str, Path], Any]] = {
    "text": lambda file, name, _: file.create_dataset(name, data=[b"abc"] * STEPS),
    "texts of variable length": lambda file, name, _: file.create_dataset(name, data=["a"] * STEPS),
    "rows of variable length": lambda file, name, _: file.create_dataset(
        name, (STEPS,), dtype=h5py.vlen_dtype(np.float32)
    ),
    "records": lambda file, name, _: file.create_dataset(name, data=np.zeros(STEPS, [("a", "f4"), ("b", "i4")])),
    "complex": lambda file, name, _: file.create_dataset(name, data=np.zeros(STEPS, complex)),
    "references": lambda file, name, _: file.create_dataset(name, (STEPS,), dtype=h5py.ref_dtype),
    "opaque": lambda file, name, _: file.create_dataset(name, data=np.zeros(STEPS, "V8")),
    "a scalar": lambda file, name, _: file.create_dataset(name, data=1.0),
    "nothing": lambda file, name, _: file.create_dataset(name, data=h5py.Empty("f4")),
    "a group": lambda file, name, _: file.create_group(name),
    "a cycle": _cycle,
    "a dangling link": lambda file, name, _: file.__setitem__(name, h5py.SoftLink("/nowhere")),
    "a link to another file": _external_link,
    "a link to a file that is not there": lambda file, name, _: file.__setitem__(
        name, h5py.ExternalLink("/nowhere.h5", "/x")
    ),
    "numbers in another file": lambda file, name, folder: file.create_dataset(
        name, **RAW, external=[(str(folder / "secret"), 0, STEPS)]
    ),
    "virtual numbers": _virtual,
    "10^11 numbers that nobody wrote": lambda file, name, _: file.create_dataset(
        name, (10**11,), dtype="f8", chunks=(1024,)
    ),
    "a shape of many axes": lambda file, name, _: file.create_dataset(name, data=np.zeros((STEPS, 1, 2, 1))),
    "too few": lambda file, name, _: file.create_dataset(name, data=np.zeros(STEPS - 1)),
    "no numbers at all": lambda file, name, _: file.create_dataset(name, shape=(0,), dtype="f4"),
}
NAMES = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good D4RL file, a Minari data set, a Parquet file, and a file that is not to be read."""
    made = tmp_path_factory.mktemp("hostile")
    episodes = hopper_like([5, 7])
    ends = np.isin(np.arange(STEPS), [4, 11])
    with h5py.File(made / "good.hdf5", "w") as file:
        file["observations"], file["actions"], file["rewards"] = (
            episodes.observations,
            episodes.actions,
            episodes.rewards,
        )
        file["terminals"], file["timeouts"] = ends, np.zeros(STEPS, bool)
    write_minari(episodes, made, "good-v0")
    write_parquet(episodes, made / "good.parquet")
    (made / "secret").write_bytes(bytes(range(STEPS)))
    return made


def refused(read: Callable[[], Any]) -> InstarError:
    """Return the named error of `read`, its four fields said."""
    with pytest.raises((ArtifactError, ContractError, ConfigError)) as raised:
        read()
    error = raised.value
    assert all(getattr(error, field) for field in ("expected", "found", "where", "action"))
    assert len(str(error)) < 2000
    return error


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_of_a_d4rl_file_that_is_none_is_named(kind: str, name: str, folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(folder / "good.hdf5", tmp_path / "a.hdf5"))
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        ARRAYS[kind](file, name, folder)
    before = path.read_bytes()
    refused(lambda: read_d4rl(path, "Hopper-v5", "medium"))
    assert path.read_bytes() == before
    assert read_d4rl(folder / "good.hdf5", "Hopper-v5", "medium").lengths.tolist() == [5, 7]


@pytest.mark.parametrize("kind", ["numbers in another file", "a link to another file", "virtual numbers"])
def test_no_other_file_is_read(kind: str, folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(folder / "good.hdf5", tmp_path / "a.hdf5"))
    with h5py.File(path, "a") as file:
        del file["rewards"]
        ARRAYS[kind](file, "rewards", folder)
    found = refused(lambda: read_d4rl(path, "Hopper-v5", "medium")).found
    assert found in ("a reference to another file", "a ExternalLink")


FIELDS: dict[str, list[Any]] = {
    "env_spec": [
        None,
        "",
        "{",
        "[]",
        [],
        7,
        {},
        {"id": 3},
        {"id": "x:Hopper-v5"},
        {"id": "Hopper-v5", "kwargs": [1]},
        {"id": "Hopper-v5", "additional_wrappers": [1]},
        {"id": "Hopper-v5", "additional_wrappers": 1},
        {"id": "Hopper-v5", "max_episode_steps": "many"},
        "[" * 100_000,
    ],
    "action_space": [
        "{",
        "[]",
        [1],
        7,
        {"type": "Box"},
        {"type": "Discrete", "n": 3},
        {"type": "Box", "shape": 3},
        {"type": "Box", "shape": [3], "low": -1, "high": 1},
        {"type": "Box", "shape": [3], "low": [0], "high": [1]},
        {"type": "Box", "shape": [3], "low": ["a"] * 3, "high": [1] * 3},
        {"type": "Box", "shape": [3], "low": [float("nan")] * 3, "high": [1] * 3},
        {"type": "Box", "shape": [3], "low": [10**400] * 3, "high": [1] * 3},
    ],
    "total_episodes": ["2", -1, 2.5, True, [2], 10**100],
    "data_format": ["arrow", 3, []],
    "dataset_id": [3, [], {}],
    "algorithm_name": [3, ["a"]],
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_minari_metadata_that_is_wrong_is_named(field: str, folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder / "good-v0", tmp_path / "a")) / "data"
    content = json.loads((copied / "metadata.json").read_text())
    for value in FIELDS[field]:
        (copied / "metadata.json").write_text(json.dumps(content | {field: value}))
        error = refused(lambda: read_minari(copied))
        assert field in error.where or field == "total_episodes" or "environment" in error.expected, value


@pytest.mark.parametrize("text", [b"", b"null", b"[1]", b"\xff\xfe", b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_metadata_that_are_no_object_are_named(text: bytes, folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder / "good-v0", tmp_path / "a")) / "data"
    (copied / "metadata.json").write_bytes(text)
    assert refused(lambda: read_minari(copied)).where.endswith("metadata.json")


@pytest.mark.parametrize("key", ["tier", "behaviour", "seed"])
def test_an_attribute_of_another_type_is_named(key: str, folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder / "good-v0", tmp_path / "a")) / "data"
    for value in (np.zeros(3), h5py.Empty("f4"), 2.5):
        with h5py.File(copied / "main_data.hdf5", "a") as file:
            file["episode_1"].attrs[key] = value
        assert refused(lambda: read_minari(copied)).where.endswith(f"episode_1@{key}")


def test_an_episode_that_is_an_array_is_named(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder / "good-v0", tmp_path / "a")) / "data"
    with h5py.File(copied / "main_data.hdf5", "a") as file:
        del file["episode_1"]
        file["episode_1"] = np.zeros(3)
    assert refused(lambda: read_minari(copied)).found == "an array"


@pytest.mark.parametrize("column", ["observations", "rewards", "truncated", "arm"])
def test_a_parquet_column_of_another_type_is_named(column: str, folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "good.parquet")
    for values in (pa.array([{"a": 1}] * 2), pa.nulls(2), pa.array([b"x"] * 2)):
        changed = table.set_column(table.schema.get_field_index(column), column, values)
        pq.write_table(changed, tmp_path / "a.parquet")
        assert column in str(refused(lambda: read_parquet(tmp_path / "a.parquet")))


@pytest.mark.parametrize("path", ["a" * 300, "no\0name", "", "."])
def test_paths_that_name_no_file_are_named(path: str) -> None:
    for read in (
        lambda: read_d4rl(Path(path), "Hopper-v5", "m"),
        lambda: read_minari(Path(path)),
        lambda: read_parquet(Path(path)),
    ):
        refused(read)


@pytest.mark.fuzz
@FUZZ
@given(
    file=st.sampled_from(["good.hdf5", "good-v0/data/main_data.hdf5", "good-v0/data/metadata.json", "good.parquet"]),
    data=st.data(),
)
def test_bytes_that_were_changed_are_read_as_they_were_or_named(folder: Path, file: str, data: st.DataObject) -> None:
    """Any few bytes of a file may change or go. What still reads is checked by whoever uses it; nothing else may come out."""
    whole = (folder / file).read_bytes()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(1, 6)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    place = folder / "fuzz" / file
    shutil.copytree((folder / file).parent, place.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns("fuzz"))
    place.write_bytes(bytes(damaged))
    try:
        if file.startswith("good-v0"):
            read_minari(place.parent)
        elif file.endswith("parquet"):
            read_parquet(place)
        else:
            read_d4rl(place, "Hopper-v5", "medium")
    except InstarError as error:
        assert error.expected and error.found and error.where and error.action
    assert place.read_bytes() == bytes(damaged)
    shutil.rmtree(folder / "fuzz")
