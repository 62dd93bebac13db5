"""`make gpu` without a GPU: what it says, what its file would hold, and that its benchmark runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support import fake_vllm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize("script", ["gpu_run", "gpu_loop", "gpu_kernels"])
def test_a_machine_without_a_device_is_a_sentence_and_an_exit_code(
    script: str, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.json"
    side = ["--side", "vllm"] if script == "gpu_loop" else []
    monkeypatch.setattr(sys, "argv", [script, "--out", str(out), *side])
    assert load(script).main() == 77 and not out.exists()
    assert "no CUDA device" in capsys.readouterr().err


def test_every_outcome_is_kept_with_what_was_said(load: Any, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "def test_absent(): pytest.skip('two devices')\n"
        "@pytest.fixture\n"
        "def broken(): raise ValueError('no set-up')\n"
        "def test_broken(broken): pass\n"
    )
    (tmp_path / "test_other.py").write_text("import pytest\npytest.skip('needs vllm', allow_module_level=True)\n")
    found = load("gpu_run").test_part(tmp_path)
    outcomes = {row["test"].rpartition("test_")[2]: row for row in found["tests"]}
    assert {name: row["outcome"] for name, row in outcomes.items()} == {
        "good": "passed",
        "bad": "failed",
        "absent": "skipped",
        "broken": "failed",
        "other.py": "skipped",
    }
    assert "assert 1 == 2" in outcomes["bad"]["message"] and "no set-up" in outcomes["broken"]["message"]
    assert "two devices" in outcomes["absent"]["message"] and "needs vllm" in outcomes["other.py"]["message"]


def test_one_file_holds_device_versions_tests_and_benchmarks(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that crashes is a failure beside the others, and the exit code says so."""
    run = load("gpu_run")
    parts: dict[str, Any] = {
        "tests": {"exit": 0, "tests": [{"test": "a", "outcome": "passed", "seconds": 1.0}]},
        "gpu_kernels": {"seconds": 1.0, "rows": [{"row": "scan"}]},
        "gpu_loop": {"seconds": 1.0, "rows": [{"row": "vllm", "update_s": 1.0}]},
    }
    monkeypatch.setattr(run, "part", lambda name: parts[name])
    out = tmp_path / "runs" / "gpu.json"
    assert run.everything(out) == 0
    written = json.loads(out.read_text())
    assert written["machine"]["versions"]["torch"] == torch.__version__
    assert set(written) == {"machine", "tests", "benchmarks", "failed"} and set(written["benchmarks"]) == set(
        run.MODULES
    )
    parts["gpu_loop"]["rows"].append({"row": "transformers", "error": "out of memory", "met": False})
    parts["gpu_kernels"] = {"error": "exit code -9: "}
    assert run.everything(out) == 1
    assert json.loads(out.read_text())["failed"] == ["gpu_kernels", "gpu_loop: transformers"]


def test_every_module_of_gpu_benchmarks_can_run(load: Any) -> None:
    for name in load("gpu_run").MODULES:
        assert callable(load(name).run)


@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_the_loop_that_is_measured_runs_on_a_cpu(
    name: str, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small, and with the stand-in for vLLM: two steps of which the first writes no weights."""
    for module, made in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, module, made)
    loop = load("gpu_loop")
    small = loop.Sizes(
        hidden=32,
        layers=2,
        intermediate=48,
        heads=2,
        kv_heads=1,
        vocabulary=64,
        prompts=2,
        group=2,
        new_tokens=4,
        budget=2048,
        steps=2,
    )
    row = loop.measure(name, small, tmp_path)
    assert row["update_s"] > 0 and row["tokens_per_s"] > 0 and row["update_predicted_gib"] > 0
    if name == "vllm":
        (server,) = fake_vllm.LLM.started
        assert [call for call in server.calls if "reload" in call] == ["reload_weights from memory"]
        assert row["seeds_in_kernel"] == 1.0
        took = loop.handover(small, tmp_path / "handover", loop.SIDES["vllm"].engine, repeats=1)
        assert took["memory_s"] > 0 and took["files_s"] > 0
