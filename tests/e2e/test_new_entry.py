"""One more carried artifact costs two source files, and an output left empty means none, in every runner.

The changes are made to a copy of the sources, which a process of its own runs. The toy entry `replay` holds rollouts of several
steps; its stage leaves it empty at steps 1 and 4 of six. The toy entry `sampling` is fed back by evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import scratch
from support.toy_entry import FILLED, LAST, REPLAY, STATE

SAMPLING = {
    STATE: [(LAST, LAST + '    sampling: Annotated[CurriculumState | None, "learned"] = None\n')],
    "components/evaluate/stage.py": [
        (
            "    baseline: Evaluation | None\n",
            "    baseline: Evaluation | None\n    sampling: CurriculumState | None = None\n",
        ),
        ("    evaluation: Evaluation\n\n", "    evaluation: Evaluation\n    sampling: CurriculumState\n\n"),
        (
            "from instar.artifact import Code, Evaluation, Policy, Tasks\n",
            "from instar.artifact import Code, CurriculumState, Evaluation, Policy, Tasks\n",
        ),
        (
            "    tasks = choose_tasks(",
            "    before = ins.sampling.read_json('state.json') if ins.sampling is not None else []\n"
            "    outs.sampling.write_json('state.json', [*before, config.splits[0]])\n"
            "    tasks = choose_tasks(",
        ),
    ],
}


@pytest.fixture(scope="module")
def replaying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scratch.copy(tmp_path_factory.mktemp("replay"), REPLAY)


def carried(tree: Path, tmp_path: Path, runner: str, clock: str, entry: str) -> dict[str, Any]:
    report: dict[str, Any] = scratch.run(tree, "support.carrying", runner, clock, str(tmp_path / "run"), entry)
    assert Path(report["instar"]).is_relative_to(tree), "the copy was not what ran"
    return report


@pytest.fixture(scope="module")
def rounds(replaying: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return carried(replaying, tmp_path_factory.mktemp("rounds"), "in_process", "rounds", "replay")


def test_an_entry_costs_two_source_files(replaying: Path) -> None:
    assert scratch.differing(replaying) == ["components/reward/stage.py", STATE]


def test_in_one_process_an_output_left_empty_means_none(rounds: dict[str, Any]) -> None:
    rewards = [call for call in rounds["calls"] if call[0] == "reward"]
    wrote = {step: bool(after) for _, step, _, after in rewards}
    assert wrote == {step: step in FILLED for step in range(6)}
    digests = {step: after for _, step, _, after in rewards}
    assert [before for _, _, before, _ in rewards] == ["", *(digests[step] for step in range(5))]
    assert len(rounds["rows"]) == FILLED[5]


@pytest.mark.slow  # tests/e2e/test_evolution.py compares both clocks for all entries that there are
def test_both_clocks_carry_the_same(replaying: Path, rounds: dict[str, Any], tmp_path: Path) -> None:
    report = carried(replaying, tmp_path, "in_process", "fused", "replay")
    assert report["rows"] == rounds["rows"] != []
    fused = [(bool(before), bool(after)) for stage, _, before, after in report["calls"] if stage == "fused"]
    assert fused == [(False, False), (False, True), (True, True)]


NIGHTLY = [pytest.param(runner, marks=pytest.mark.slow) for runner in ("argo", "command_line")]


@pytest.mark.parametrize("runner", ["kubeflow", *NIGHTLY])
def test_every_runner_carries_the_same(runner: str, replaying: Path, rounds: dict[str, Any], tmp_path: Path) -> None:
    """The packages are compiled from the copy. Under `kubeflow` a stage reads executor input, under `argo` options."""
    assert carried(replaying, tmp_path, runner, "rounds", "replay")["calls"] == rounds["calls"]


def test_what_an_evaluation_feeds_back_goes_on_and_a_test_feeds_nothing_back(tmp_path: Path) -> None:
    """Evaluations 0 to 3 are a chain; the tests of the base and of the champion read it and are not in it."""
    tree = scratch.copy(tmp_path / "tree", SAMPLING)
    assert scratch.differing(tree) == ["components/evaluate/stage.py", STATE]
    report = carried(tree, tmp_path, "in_process", "fused", "sampling")
    first, base, *watched, champion = [(before, after) for s, _, before, after in report["calls"] if s == "evaluate"]
    assert first[0] == "" and base[0] == "", "the base is tested as it was before any evaluation"
    assert [before for before, _ in watched] == [first[1], *(after for _, after in watched[:-1])]
    assert len({first[1], *(after for _, after in watched)}) == 4
    assert champion[0] == watched[-1][1] and champion[1] not in {after for _, after in watched}
