"""Data sets as libraries write them: saved to disk with splits, a snapshot of the hub, a hub id, and folders of Harbor tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar.components.dataset_prep.imported import hub
from instar.components.dataset_prep.imported.importer import Options, import_tasks
from instar.components.dataset_prep.imported.splits import Shares
from instar.errors import ContractError, InstarError, MissingDependencyError, UnavailableError
from unit.tasks.test_import import brought, refused

datasets = pytest.importorskip("datasets")
WHOLE = Options(shares=Shares(val=0.0, test=0.0))


def rows(count: int, start: int = 0) -> dict[str, list[Any]]:
    numbers = range(start, start + count)
    return {"question": [f"{n} + {n}?" for n in numbers], "answer": [f"{2 * n}" for n in numbers]}


def test_a_saved_data_set(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(rows(120)).save_to_disk(tmp_path / "saved", num_shards=3)
    imported, tasks = brought(tmp_path / "saved")
    assert imported.format == "arrow" and {task.prompt for task in tasks} == set(rows(120)["question"])


def test_a_saved_data_set_with_splits(tmp_path: Path) -> None:
    splits = {"train": rows(100), "validation": rows(30, 100), "test": rows(20, 130)}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_dict(part) for name, part in splits.items()})
    whole.save_to_disk(tmp_path / "saved")
    _, tasks = brought(tmp_path / "saved")
    pools = {"train": "train", "validation": "val", "test": "id"}
    for name, part in splits.items():
        assert {task.prompt for task in tasks if task.split == pools[name]} == set(part["question"])


def test_a_filtered_data_set_is_read_as_it_was_saved(tmp_path: Path) -> None:
    filtered = datasets.Dataset.from_dict(rows(60)).filter(lambda row: row["answer"] != "4")
    filtered.save_to_disk(tmp_path / "saved")
    _, tasks = brought(tmp_path / "saved", WHOLE)
    assert len(tasks) == 59


def test_a_saved_data_set_with_a_table_of_indices_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(rows(60)).save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    assert "flatten_indices()" in refused(tmp_path / "saved").action


def test_a_damaged_saved_data_set_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(rows(60)).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:200])
    assert refused(tmp_path / "saved").expected == "an Arrow stream"
    (tmp_path / "saved" / "state.json").write_text("{")
    assert refused(tmp_path / "saved").expected == "a file that save_to_disk() wrote"


def test_conversations_survive_a_saved_data_set(tmp_path: Path) -> None:
    said = [[{"role": "user", "content": f"{n}?", "name": None}] for n in range(40)]
    datasets.Dataset.from_dict({"prompt": said, "solution": ["a"] * 40}).save_to_disk(tmp_path / "saved")
    imported, tasks = brought(tmp_path / "saved", WHOLE)
    assert imported.config.form == "messages" and imported.columns.layout == "TRL"
    assert {"messages": [{"role": "user", "content": "7?"}]} in [json.loads(task.prompt) for task in tasks]


def test_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "train.jsonl").write_text("not to be read")
    datasets.Dataset.from_dict(rows(100)).to_parquet(folder / "data" / "train-00000-of-00002.parquet")
    datasets.Dataset.from_dict(rows(50, 100)).to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    datasets.Dataset.from_dict(rows(30, 150)).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    imported, tasks = brought(folder)
    assert imported.num_read == 180 and sum(task.split == "id" for task in tasks) == 30


def test_images_are_refused_with_the_reason(tmp_path: Path) -> None:
    image = {"bytes": b"png", "path": None}
    features = datasets.Features(
        {"problem": datasets.Value("string"), "answer": datasets.Value("string"), "images": [datasets.Image()]}
    )
    part = datasets.Dataset.from_dict({"problem": ["p"], "answer": ["a"], "images": [[image]]}, features=features)
    part.save_to_disk(tmp_path / "saved")
    error = refused(tmp_path / "saved")
    assert error.expected == "rows of text" and "no recipe reads them yet" in error.action


def test_a_hub_id_is_read_by_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    splits = {"train": datasets.Dataset.from_dict(rows(100)), "test": datasets.Dataset.from_dict(rows(30, 100))}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
    monkeypatch.chdir(tmp_path)
    imported = import_tasks("owner/name", tmp_path / "tasks")
    (arm,) = imported.config.arms
    assert imported.format == "hub" and imported.digest == "" and arm.id == 30 and arm.train + arm.val == 100


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> Any:
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(UnavailableError) as raised:
        hub.load("owner/name")
    assert "no route to owner/name" in raised.value.found and "import the folder" in raised.value.action
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="install datasets"):
        hub.load("owner/name")


def harbor_task(folder: Path, instruction: str, settings: str) -> Path:
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test.sh").write_text("echo 1 > /logs/verifier/reward.txt\n")
    (folder / "instruction.md").write_text(instruction)
    (folder / "task.toml").write_text(settings)
    return folder


def test_a_folder_of_harbor_tasks(tmp_path: Path) -> None:
    for n in range(30):
        level = ("easy", "hard")[n % 2]
        settings = (
            f'version = "1.0"\n[metadata]\ndifficulty = "{level}"\ntags = ["a"]\n[verifier]\ntimeout_sec = 120.0\n'
        )
        harbor_task(tmp_path / "tasks" / f"task-{n:02d}", f"# Task {n}\n\nWrite {n} to out.txt.\n", settings)
    imported, tasks = brought(tmp_path / "tasks", WHOLE)
    assert imported.format == "harbor" and [arm.name for arm in imported.config.arms] == ["easy", "hard"]
    reference = json.loads(next(task for task in tasks if task.prompt.startswith("# Task 7\n")).reference)
    assert reference["task"] == "task-07" and reference["metadata"]["tags"] == ["a"] and reference["answer"] is None
    assert any("--reward" in text for text in imported.warnings)


@pytest.mark.parametrize(
    ("instruction", "settings", "expected"),
    [
        ("", "", "an instruction"),
        ("x", "steps = [1]", "a task of one instruction"),
        ("x", "broken", "valid TOML"),
    ],
)
def test_a_broken_harbor_task_is_named(instruction: str, settings: str, expected: str, tmp_path: Path) -> None:
    harbor_task(tmp_path / "tasks" / "one", instruction, settings)
    error: InstarError = refused(tmp_path / "tasks")
    assert error.expected == expected and "one" in error.where


def test_a_harbor_task_without_an_instruction_is_named(tmp_path: Path) -> None:
    harbor_task(tmp_path / "tasks" / "one", "x", "")
    (tmp_path / "tasks" / "one" / "instruction.md").unlink()
    with pytest.raises(ContractError, match=r"instruction\.md"):
        brought(tmp_path / "tasks")
