"""What a local run asks of its machine before the first stage, and what is not asked of a machine that only submits."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from instar.cli import commands
from instar.cli.compare import evaluate
from instar.cli.resolve import resolve
from instar.errors import ConfigError, InstarError, MissingDependencyError
from instar.pipelines import preflight


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without vLLM and without CUDA."""
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def start(out: Path, *sets: str) -> None:
    commands.run("sec", "tiny", 0, out, None, None, "inprocess", "off", None, sets)


@pytest.mark.parametrize("piece", ["rollout", "evaluate", "test"])
def test_a_run_without_its_engine_is_refused_before_anything_is_written(piece: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        start(tmp_path / "run", f"{piece}.engine.name=vllm")
    assert caught.value.where == f"{piece}.engine.name=vllm" and "pip install 'instar[vllm]'" in caught.value.action
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "key", ["rollout.engine.device", "update.device", "evaluate.engine.device", "test.engine.device"]
)
def test_a_run_on_a_device_that_is_absent_is_refused_before_anything_is_written(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start(tmp_path / "run", f"{key}=cuda")
    assert (caught.value.expected, caught.value.found, caught.value.where) == ("a CUDA device", "none", key)
    assert caught.value.action == f"set {key} to auto or cpu"
    assert not (tmp_path / "run").exists()


def test_a_comparison_asks_for_what_the_test_needs_alone(tmp_path: Path) -> None:
    def compare(*sets: str) -> None:
        evaluate(tmp_path / "a", str(tmp_path / "b"), "sec", "tiny", 0, None, sets)

    with pytest.raises(ConfigError, match=r"test\.engine\.device"):
        compare("test.engine.device=cuda")
    with pytest.raises(InstarError, match="a policy folder"):  # further than the machine: the policies are not there
        compare("rollout.engine.device=cuda")


def test_containers_bring_their_own_machine(tmp_path: Path) -> None:
    """The check would refuse; what stops this start is the lock of images, which is not there."""
    sets = ("rollout.engine.name=vllm", "rollout.engine.device=cuda")
    with pytest.raises(InstarError, match=r"images\.lock"):
        lock = tmp_path / "images.lock"
        commands.run_in_containers("sec", "tiny", 0, tmp_path / "run", None, None, lock, "off", None, sets)


def test_what_is_there_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve("sec", "tiny", None, None, ["rollout.engine.name=vllm", "rollout.engine.device=cuda"])
    monkeypatch.setitem(sys.modules, "vllm", types.ModuleType("vllm"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    preflight.check(recipe)
    preflight.check(resolve("decision_mamba", "tiny", None, None, []))


@pytest.mark.parametrize(
    ("recipe", "sets", "name"),
    [
        ("decision_mamba", ["dataset_prep.source.strategy=minari", "dataset_prep.source.path={}"], "source"),
        ("sec", ["dataset_prep.initial.strategy=checkpoint", "dataset_prep.initial.path={}"], "initial"),
    ],
)
def test_a_path_of_this_machine_is_refused_for_containers(
    recipe: str, sets: list[str], name: str, tmp_path: Path
) -> None:
    here = resolve(recipe, "tiny", None, None, [text.format(tmp_path) for text in sets])
    with pytest.raises(ConfigError, match="a container that does not see it") as caught:
        preflight.check_containers(here)
    assert (caught.value.where, caught.value.found) == (f"dataset_prep.{name}.path", str(tmp_path))
    preflight.check_containers(resolve(recipe, "tiny", None, None, [text.format("/in/the/image") for text in sets]))
    preflight.check_containers(resolve(recipe, "tiny", None, None, []))
