"""Whose tasks, and whose way of asking, judge two policies: `instar evaluate` of evolutions with settings of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.artifact import Policy, Tasks
from instar.cli import compare
from instar.cli.resolve import resolve
from instar.errors import ConfigError
from instar.pipelines.evaluation import Side
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.recipes import build
from instar.workspace import create_workspace

DELAYED = [f"{piece}.delayed=true" for piece in ("rollout", "reward", "evaluate", "test")]


def opened(folder: Path, name: str, *sets: str) -> Path:
    open_evolution(create_workspace(folder, folder.name, None), resolve(name, "tiny", None, None, sets), 0)
    return folder


def test_an_evolution_is_judged_as_it_was_set(tmp_path: Path) -> None:
    """A policy that learned from delayed returns was judged with returns that fall by what was received."""
    ours, theirs = opened(tmp_path / "a", "decision_mamba", *DELAYED), opened(tmp_path / "b", "decision_mamba")
    delayed = [compare.suite_of(ours, str(against), "", "").test for against in (ours, theirs, tmp_path / "folder")]
    assert [test.delayed for test in delayed] == [True, False, True]  # type: ignore[union-attr]


def test_against_the_registry_a_candidate_does_not_choose_its_bar(tmp_path: Path) -> None:
    easy = opened(tmp_path / "a", "sec", "test.margin=0.9")
    assert compare.suite_of(easy, "champion", "", "") == build("sec", "tiny")
    assert compare.suite_of(easy, str(easy), "sec", "tiny").test.margin == 0.9


def test_a_named_suite_is_the_one_whose_tasks_are_asked(tmp_path: Path) -> None:
    """Tasks of the evolution were asked in the way of the named suite, and the page said that they were the suite's."""
    ours = opened(tmp_path / "a", "sec")
    assert compare.suite_of(ours, str(ours), "sec", "small") == build("sec", "small")
    tasks = Tasks(tmp_path, "sha256:t")
    side = Side(name="ours", policy=Policy(tmp_path, "sha256:p"), tasks=tasks, suite=("sec", "tiny"))
    assert side.pools_of(build("sec", "tiny")) is tasks
    assert [side.pools_of(build(name, scale)) for name, scale in (("sec", "small"), ("spark", "tiny"))] == [None, None]


@pytest.mark.parametrize(
    ("tracking", "sets", "where"),
    [
        ("sqlite:///x.db", [], "--tracking"),
        (None, ["update.lr=1"], "evaluate --set update"),
        (None, ["threads=1"], "evaluate --set threads"),
        (None, ["test.samples=0", "test.temperature=0.5"], "sec.test.temperature"),
    ],
)
def test_what_a_comparison_does_not_read_is_refused(
    tracking: str | None, sets: list[str], where: str, tmp_path: Path
) -> None:
    ours = opened(tmp_path / "a", "sec")
    with pytest.raises(ConfigError) as caught:
        compare.evaluate(ours, str(ours), "", "", 0, tracking, sets)
    assert caught.value.where == where
