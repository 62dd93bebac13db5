"""Planted: another version of a library writes the same weights. A policy's digest must not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar.components.dataset_prep.config import Checkpoint, Packaged
from instar.components.policy_io import VERSIONS, without_versions
from instar.components.update.config import PolicyGradientConfig
from instar.manifest import manifest_of
from unit.tasks.shipped import NAME, only_from, register, ship, tensors
from unit.tasks.test_initial_policy import llama, prepare
from unit.update.world import make_world

WRITERS = ("transformers.configuration_utils", "transformers.generation.configuration_utils")


def installed(version: str, patch: pytest.MonkeyPatch) -> None:
    """Pretend that another version of transformers is installed."""
    for module in WRITERS:
        patch.setattr(f"{module}.__version__", version)


def digest(folder: Path) -> str:
    for file in folder.rglob("*.json"):
        assert not any(f'"{key}"' in file.read_text() for key in VERSIONS), file
    return manifest_of(folder, "Policy").digest


@pytest.mark.parametrize("initial", ["checkpoint", "packaged"])
def test_the_first_policy(initial: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converted model is cached with what another version wrote into it."""
    register(ship(tmp_path / "registry", tensors()), monkeypatch)
    only_from(tmp_path / "registry", monkeypatch)
    found, mine = set(), llama(tmp_path / "mine")
    for version in ("5.23.0", "9.9.9"):
        root = tmp_path / version
        root.mkdir()
        monkeypatch.setenv("INSTAR_CACHE", str(root / "cache"))
        installed(version, monkeypatch)
        start = Packaged(name=NAME) if initial == "packaged" else Checkpoint(path=str(mine))
        outs, _ = prepare(root, start)
        found.add(digest(outs.policy.path))
    assert len(found) == 1


@pytest.mark.parametrize("durable", [True, False])
def test_a_trained_policy(durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for version in ("5.23.0", "9.9.9"):
        installed(version, monkeypatch)
        root = tmp_path / version
        root.mkdir()
        world = make_world(root)
        world.durable = durable
        outs, _ = world.update(PolicyGradientConfig(lr=1e-3))
        found.add(digest(outs.policy.path))
    assert len(found) == 1


def test_versions_of_libraries_alone_are_taken_out(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"transformers_version": "5.0.0", "rope_version": 2, "layers": [{"torch_version": "2"}]}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": inner, "model_version": "b", "ä": "ö"}))
    (tmp_path / "tokenizer.json").write_text('{"version":"1.0"}')
    without_versions(tmp_path)
    read = json.loads((tmp_path / "config.json").read_text())
    assert read == {"text_config": {"rope_version": 2, "layers": [{}]}, "model_version": "b", "ä": "ö"}
    assert (tmp_path / "tokenizer.json").read_text() == '{"version":"1.0"}'
