"""The example of a curriculum of one's own: its commands as they stand in the README, and what is learned."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from instar.cli import app
from instar.status import status
from instar.workspace import open_workspace
from unit.test_docs import FENCE, ROOT

EXAMPLE = ROOT / "examples" / "own_curriculum"
TABLE = {"2 digits": "sort-2", "3 digits": "sort-3", "4 digits": "sort-4"}


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["instar", *words])
    with pytest.raises(SystemExit) as ending:
        app.main()
    return int(ending.value.code or 0)


def metrics_of(out: Path, stage: str) -> list[dict[str, Any]]:
    return [dict(e.body["metrics"]) for e in open_workspace(out).ledger.of("stage") if e.body["stage"] == stage]


def test_the_commands_of_the_example_train_a_better_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(EXAMPLE, tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    readme = (EXAMPLE / "README.md").read_text()
    check, run, show = (block.split() for _, block in FENCE.findall(readme))
    assert call(monkeypatch, *check[1:]) == 0
    assert call(monkeypatch, *run[1:], "--tracking", "off") == 0
    shutil.move("half.py", "elsewhere.py")
    capsys.readouterr()
    assert call(monkeypatch, *show[1:]) == 0
    assert "curriculum half.py:Half" in capsys.readouterr().out
    out = tmp_path / "example/runs/half"
    assert status(open_workspace(out))["ending"] == "champion is the policy after iteration 3, the last one"
    for arm in TABLE.values():
        assert all(f"curriculum/{arm}/p" in metrics for metrics in metrics_of(out, "fused"))
    base, *_, champion = [m for m in metrics_of(out, "evaluate") if "id/accuracy" in m]
    assert champion["id/accuracy"] > base["id/accuracy"] + 0.05
    for row, arm in TABLE.items():
        numbers = f"| {base[f'id/{arm}/accuracy']:.2f} | {champion[f'id/{arm}/accuracy']:.2f} |"
        assert f"| {row} {numbers}" in readme, numbers
