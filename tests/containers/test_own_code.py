"""A user's rows and code with every task in its own container: the ledger of one process, and nothing runs that was changed.

The reward imports a package from a wheel, which is unpacked in the container: the image has no pip.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.seaweed import Seaweed

from instar.errors import ArtifactError
from instar.manifest import blob_name
from instar.pipelines.containers.evolution import drive
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace, open_workspace
from support.own_code import open_own, write_files
from unit.test_bundle import tiny_wheel

pytestmark = pytest.mark.containers
CHANGES: dict[str, Any] = {"clock": "rounds", "iterations": 1, "inner_steps": 1}
HELPER = """import tiny_words


def clean(text):
    return text.strip() if tiny_words.WORDS == () else None
"""


@pytest.fixture(autouse=True)
def environment(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


def opened(tmp_path: Path, name: str, store: str | None = None) -> tuple[Workspace, Recipe]:
    """Open the evolution. Afterwards the user's files are gone."""
    lock = tmp_path / "lock.txt"
    if not lock.exists():  # an archive holds the time at which it was written
        lock.write_text(tiny_wheel(tmp_path / "index") + "\n")
    files = write_files(tmp_path / "mine", helper=HELPER)
    workspace, recipe = open_own(tmp_path / name, files, store, lock, **CHANGES)
    shutil.rmtree(files)
    return workspace, recipe


def in_containers(workspace: Workspace, recipe: Recipe, image: str) -> None:
    drive(workspace, recipe, load("local"), Images(digests={"instar-cpu": image}))


def test_a_users_code_gives_the_ledger_of_one_process(image: str, tmp_path: Path) -> None:
    workspace, recipe = opened(tmp_path, "local")
    evolve(LocalRunner(workspace, threads=1), recipe)
    there, _ = opened(tmp_path, "containers", f"s3://instar-test/{tmp_path.name}")
    in_containers(there, recipe, image)
    expected = [(e.kind, e.body) for e in open_workspace(workspace.path).ledger.entries]
    written = [(e.kind, e.body) for e in open_workspace(there.path).ledger.entries]
    assert written[: len(expected)] == expected
    assert [kind for kind, _ in written[len(expected) :]] == ["close"]


def test_code_that_was_changed_in_the_store_does_not_run_in_a_container(image: str, tmp_path: Path) -> None:
    workspace, recipe = opened(tmp_path, "containers", f"s3://instar-test/{tmp_path.name}")
    digest = next(workspace.ledger.of("open")).body["brought"]["curriculum_code"]
    blob = blob_name(workspace.cas.manifest(digest).files["files/cur.py"].sha256)
    content = workspace.store.read(blob)
    workspace.store.put_bytes(blob, content.replace(b"0.5", b"0.9"))
    with pytest.raises(ArtifactError, match=r"files/cur\.py"):
        in_containers(workspace, recipe, image)
    assert "curriculum" not in {e.body["stage"] for e in open_workspace(workspace.path).ledger.of("stage")}
