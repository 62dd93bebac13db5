"""The Python interface: names, recipes with changes, and the table of metrics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import instar
from instar import config as configs
from instar.cli.resolve import resolve
from instar.components.curriculum.config import UniformConfig
from instar.errors import ConfigError, LedgerError, MissingDependencyError
from instar.outcome import Outcome, StoredPolicy, outcome_of, rows
from instar.pipelines.recipes import build
from instar.workspace import create_workspace
from support.written import ITERATIONS, write_evolution


def test_every_public_name_is_listed_and_there() -> None:
    assert dir(instar) == sorted(instar.__all__)
    assert {"evolve", "recipes", "Outcome", "Recipe", "rows", "errors"} <= set(dir(instar))
    for name in instar.__all__:
        assert getattr(instar, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'evolv'"):
        instar.evolv  # noqa: B018
    assert (Path(instar.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("changes", "sets"),
    [
        ({"update.lr": 2e-4, "iterations": 10}, ["update.lr=2e-4", "iterations=10"]),
        ({"curriculum.strategy": "thompson"}, ["curriculum.strategy=thompson"]),
        ({"curriculum": {"tau": 0.3, "prompts": 8}}, ["curriculum.tau=0.3", "curriculum.prompts=8"]),
        ({"rollout.stop": ("\n",), "update.lora": {"r": 4}}, ['rollout.stop=["\\n"]', "update.lora.r=4"]),
        ({"update.preset": "dapo"}, ["update.preset=dapo"]),
        ({"curriculum": UniformConfig(prompts=64, group_size=8)}, ["curriculum.strategy=uniform"]),
    ],
    ids=str,
)
def test_changes_from_python_are_those_of_the_command_line(changes: dict[str, Any], sets: list[str]) -> None:
    assert build("sec", "tiny", changes) == resolve("sec", "tiny", None, None, sets) != build("sec", "tiny")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"update.lrr": 1.0}, "found 'lrr'; at sec.update.lrr; did you mean 'lr'"),
        ({"update.lr": "fast"}, "found 'fast'; at sec.update.lr"),
        ({"update..lr": 1.0}, "expected a key, or keys joined by dots; found 'update..lr'; at recipes.build"),
        ({"update.lr": 1.0, "update.lr.x": 2.0}, "expected one value per key"),
        ({"scale": "paper"}, "choose --scale"),
        ({"update.schedule": "linear"}, "update.total_steps"),
    ],
    ids=str,
)
def test_a_wrong_change_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("sec", "tiny", changes)


def outcome(workspace: Any) -> Outcome:
    policy = StoredPolicy(digest="", iteration=0, workspace=workspace)
    return Outcome(
        directory=workspace.path, iterations=2, reason="", policy=policy, champion=policy, workspace=workspace
    )


def test_metrics_have_one_row_per_iteration_under_both_clocks(tmp_path: Path) -> None:
    frames = {}
    for clock in ("rounds", "fused"):
        workspace = write_evolution(tmp_path / clock, clock)
        frames[clock] = outcome(workspace).metrics()
        gates = [gate.body for gate in workspace.ledger.of("gate")]
        assert list(frames[clock].index) == [body["iteration"] for body in gates] == list(range(ITERATIONS + 1))
        assert list(frames[clock]["promoted"]) == [body["decision"]["promote"] for body in gates]
        assert list(frames[clock].columns[:3]) == ["promoted", "decision", "elapsed_s"]
    both = sorted(set(frames["rounds"].columns) & set(frames["fused"].columns) - {"promoted", "decision", "elapsed_s"})
    assert any(name.startswith("update/") for name in both)
    assert not any(name.startswith("perf/") for name in frames["rounds"].columns)
    left, right = (frames[clock][both].astype(float).round(9) for clock in ("rounds", "fused"))
    assert left.equals(right), "a fused segment holds the means of its steps"


def test_metrics_without_pandas_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = write_evolution(tmp_path, "fused", 1)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas"):
        outcome(workspace).metrics()
    assert len(rows(workspace)) == 2, "the rows themselves need no pandas"


def test_an_evolution_that_goes_on_has_no_outcome(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="one that goes on"):
        outcome_of(create_workspace(tmp_path, "new"))


def test_values_of_a_nested_change_are_plain() -> None:
    pairs = [("a.b", (1, 2)), ("a.c", UniformConfig(prompts=1, group_size=1))]
    nested = configs.nested(pairs, "here")
    assert nested["a"]["b"] == [1, 2]
    assert nested["a"]["c"]["strategy"] == "uniform"
