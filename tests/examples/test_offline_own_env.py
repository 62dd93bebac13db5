"""The example of offline RL on an environment of one's own: its commands as they stand in the README, and what is learned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from instar.cli import app, commands, offline
from instar.cli.resolve import resolve
from instar.status import status
from instar.workspace import open_workspace
from unit.test_docs import FENCE, ROOT

EXAMPLE = ROOT / "examples" / "offline_own_env"
CAR = "MountainCarContinuous-v0"
RANDOM = -33.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example as the working directory, with the recorded episodes."""
    shutil.copytree(EXAMPLE, tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    subprocess.run([sys.executable, "record.py", "episodes.parquet"], check=True, timeout=120)
    return tmp_path / "example"


def lines() -> list[list[str]]:
    """Return the commands of the README."""
    return [block.split() for _, block in FENCE.findall((EXAMPLE / "README.md").read_text())]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["instar", *words])
    with pytest.raises(SystemExit) as ending:
        app.main()
    return int(ending.value.code or 0)


def data_return(path: Path) -> float:
    """Return the mean return of the logged episodes."""
    table = pq.read_table(path).group_by("episode").aggregate([("reward", "sum")])
    returns = table.column("reward_sum").to_pylist()
    return float(sum(returns) / len(returns))


def policy_return(out: Path) -> float:
    """Return the mean return on the start states of the test."""
    metrics: dict[str, Any] = status(open_workspace(out))["metrics"]
    return float(next(value for name, value in metrics.items() if name.endswith("/return")))


def test_the_commands_of_the_example_train_a_policy_that_beats_its_data(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, run, show = lines()
    assert record == ["python", "record.py", "episodes.parquet"]
    assert (run[:2], show[:2]) == (["instar", "run"], ["instar", "show"])
    assert call(monkeypatch, *run[1:]) == 0
    assert call(monkeypatch, *show[1:]) == 0
    assert "iteration" in capsys.readouterr().out
    data = data_return(place / "episodes.parquet")
    assert data == pytest.approx(29.0, abs=1.0), "the number of the README"
    assert policy_return(place / "runs" / "car") > max(data + 40.0, RANDOM + 100.0)
    page = (place / "runs" / "car" / "report.html").read_text()
    assert "0 random actions (measured, 20 episodes), 1 the best tenth of the data" in page


@pytest.mark.slow  # the test above has the first of these seeds
def test_the_mean_over_three_seeds_beats_the_best_tenth_of_the_data(place: Path) -> None:
    returns = []
    for seed in range(3):
        sets = offline.with_data("decision_mamba", "tiny", Path("episodes.parquet"), CAR, [])
        recipe = resolve("decision_mamba", "tiny", None, Path("quick.toml"), sets)
        commands.evolve_in(recipe, place / "runs" / str(seed), seed=seed, tracking="off")
        returns.append(policy_return(place / "runs" / str(seed)))
    assert sum(returns) / 3 > 91.0, json.dumps(returns)
