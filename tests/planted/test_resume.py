"""Row 2, resume is not resume: a missing part is an error and never a default; a run without an update is a failure."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from instar import config as configs
from instar.components.dataset_prep.config import FromScratch, TextConfig
from instar.errors import ArtifactError, ConfigError, LedgerError, NoProgressError
from instar.pipelines.recipe import Recipe
from instar.status import status
from instar.workspace import open_workspace
from support.micro import micro, open_and_run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def entries(directory: Path) -> list[Path]:
    return sorted((directory / "store").glob("evolutions/*/ledger/*.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """An evolution that ran to its end. The tests work on copies."""
    import torch

    torch.set_num_threads(1)
    path, recipe = tmp_path_factory.mktemp("whole"), micro(clock="rounds")
    open_and_run(path, recipe)
    return path, recipe


@pytest.fixture
def half(whole: tuple[Path, Recipe], tmp_path: Path) -> tuple[Path, Recipe]:
    """An evolution whose ledger ends after the first iteration's gate: the rest was never run."""
    finished, recipe = whole
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for path in entries(tmp_path):
        body = json.loads(path.read_text())["body"]
        if body.get("iteration", 0) == 2:
            path.chmod(0o644)
            path.unlink()
    return tmp_path, recipe


def test_steps_in_one_go_equal_steps_after_a_break(whole: tuple[Path, Recipe], half: tuple[Path, Recipe]) -> None:
    directory, recipe = half
    remaining = len(entries(directory))
    open_and_run(directory, recipe)
    assert open_workspace(directory).ledger.head == open_workspace(whole[0]).ledger.head
    assert len(entries(directory)) == len(entries(whole[0])) > remaining


@pytest.mark.parametrize("part", ["trainer", "curriculum", "stats", "policy"])
def test_a_missing_part_of_the_state_is_an_error(part: str, half: tuple[Path, Recipe]) -> None:
    directory, recipe = half
    workspace = open_workspace(directory)
    port = part
    stage = "curriculum" if part == "curriculum" else "update"
    made = [e for e in workspace.ledger.of("stage") if e.body["stage"] == stage][-1]
    manifest = workspace.cas.manifest(made.body["outputs"][port])
    for entry in manifest.files.values():
        blob = directory / "store" / "blobs" / entry.sha256[:2] / entry.sha256
        if (
            sum(1 for e in workspace.ledger.of("stage") if e.body["outputs"].get(port) == made.body["outputs"][port])
            == 1
        ):
            blob.chmod(0o644)
            blob.unlink(missing_ok=True)
    for cached in (directory / "cache").iterdir():
        for file in cached.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        cached.rename(cached.with_name(f"gone-{cached.name}"))
    before = len(entries(directory))
    with pytest.raises(ArtifactError):
        open_and_run(directory, recipe)
    assert len(entries(directory)) >= before, "an error must not lose ledger entries"


def test_a_gap_in_the_ledger_is_an_error(half: tuple[Path, Recipe]) -> None:
    directory, recipe = half
    entries(directory)[3].unlink()
    with pytest.raises(LedgerError, match="entry 3"):
        open_and_run(directory, recipe)


def test_another_configuration_is_refused(half: tuple[Path, Recipe]) -> None:
    directory, recipe = half
    with pytest.raises(ConfigError, match=r"update\.lr"):
        open_and_run(directory, configs.merge(recipe, {"update": {"lr": 0.123}}))


def test_a_run_without_an_update_is_a_failure(tmp_path: Path) -> None:
    """A start that solves nothing leaves every group without variance: no step is taken, and that is not a success."""
    recipe = micro(clock="fused", iterations=1)
    assert isinstance(recipe.dataset_prep, TextConfig)
    initial = recipe.dataset_prep.initial
    assert isinstance(initial, FromScratch)
    untrained = dataclasses.replace(initial, warm_start=dataclasses.replace(initial.warm_start, steps=1))
    recipe = dataclasses.replace(recipe, dataset_prep=dataclasses.replace(recipe.dataset_prep, initial=untrained))
    with pytest.raises(NoProgressError, match="no group"):
        open_and_run(tmp_path, recipe)
    assert status(open_workspace(tmp_path))["status"] == "open"
