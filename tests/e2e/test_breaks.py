"""Breaking a run from outside: each fault is a named error with its own exit code, nothing is lost, and a resume completes it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from instar.errors import ArtifactError, LedgerError, StorageError, UnavailableError
from instar.events import Event, StageStarted
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.local import LocalRunner
from instar.store_requests import S3Options
from instar.workspace import create_workspace, open_workspace
from support.micro import EVOLUTION, micro, open_and_run

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

RECIPE = micro(clock="rounds")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Head of the ledger of an unbroken run."""
    import torch

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("whole")
    open_and_run(path, RECIPE)
    return open_workspace(path).ledger.head


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a RAM disk of `size` at `path`; skip where this process may not mount."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("cannot mount a small disk: needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_full_disk(tmp_path: Path, whole: str) -> None:
    with small_disk(tmp_path / "disk", "700k") as disk:
        with pytest.raises(StorageError, match="space"):
            open_and_run(disk / "run", RECIPE)
        entries = len(open_workspace(disk / "run").ledger.entries)
        assert entries > 0, "what was committed before the disk was full must still be there"
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        open_and_run(disk / "run", RECIPE)
        assert open_workspace(disk / "run").ledger.head == whole


def test_disk_that_turns_read_only(tmp_path: Path, whole: str) -> None:
    with small_disk(tmp_path / "disk", "200m") as disk:
        workspace = create_workspace(disk / "run", EVOLUTION)
        open_evolution(workspace, RECIPE, 0)

        def protect(event: Event) -> None:
            if isinstance(event, StageStarted) and (event.stage, event.step) == ("reward", 1):
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        with pytest.raises(StorageError, match=r"[Rr]ead-only"):
            evolve(LocalRunner(workspace, listener=protect, threads=1), RECIPE)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        open_and_run(disk / "run", RECIPE)
        assert open_workspace(disk / "run").ledger.head == whole


def test_corrupted_artifact(tmp_path: Path) -> None:
    """A flipped byte in a stored blob is found when it is read, named, and the rest of the ledger stays."""
    open_and_run(tmp_path, micro(clock="rounds", iterations=0))
    workspace = open_workspace(tmp_path)
    prepared = next(e for e in workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep")
    digest = prepared.body["outputs"]["policy"]
    entry = workspace.cas.manifest(digest).files["model.safetensors"]
    blob = tmp_path / "store" / "blobs" / entry.sha256[:2] / entry.sha256
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-3] ^= 0xFF
    blob.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        open_workspace(tmp_path).cas.get(digest)


def test_truncated_ledger_entry(tmp_path: Path) -> None:
    open_and_run(tmp_path, micro(clock="rounds", iterations=0))
    last = sorted((tmp_path / "store").glob("evolutions/*/ledger/*.json"))[-1]
    last.chmod(0o644)
    last.write_bytes(last.read_bytes()[:40])
    with pytest.raises(LedgerError, match=last.name):
        open_workspace(tmp_path)


def test_evolution_on_s3_equals_local(
    seaweed: Seaweed, tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    open_and_run(tmp_path, RECIPE, store="s3://instar-test/breaks")
    assert open_workspace(tmp_path).ledger.head == whole
    assert not (tmp_path / "store").exists()


def test_s3_that_goes_away(seaweed: Seaweed, tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint dies in the middle; the run stops with a transient error; after a restart it completes."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    uri = "s3://instar-test/away"

    def cut(event: Event) -> None:
        if isinstance(event, StageStarted) and (event.stage, event.step) == ("update", 1):
            seaweed.kill()

    with monkeypatch.context() as impatient:
        short = S3Options(deadline_s=2.0, connect_timeout_s=0.5)
        impatient.setattr("instar.store_s3.S3Options", lambda: short)
        workspace = create_workspace(tmp_path, EVOLUTION, uri)
        open_evolution(workspace, RECIPE, 0)
        try:
            with pytest.raises(UnavailableError, match="127"):
                evolve(LocalRunner(workspace, listener=cut, threads=1), RECIPE)
        finally:
            seaweed.start()
    # Right after its restart the server answers 500 for a moment; the usual deadline rides that out.
    open_and_run(tmp_path, RECIPE, store=uri)
    assert open_workspace(tmp_path).ledger.head == whole


def test_unwritable_directory() -> None:
    with pytest.raises(StorageError):
        open_and_run(Path("/proc/instar-run"), RECIPE)
    assert not os.path.exists("/proc/instar-run")  # noqa: PTH110
