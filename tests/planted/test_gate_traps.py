"""Gates that luck passes, gates that can never tell, and runs that end without a word about it. About 4 s."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar import config as configs
from instar.cli.explain import explain
from instar.components.evaluate import power
from instar.components.evaluate.compare import compare
from instar.components.evaluate.config import AnswerConfig
from instar.errors import ConfigError
from instar.ledger import Entry
from instar.pipelines.gate import GateConfig, decide
from instar.pipelines.recipes import build
from instar.rows import EvalRow
from instar.status import ending

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = AnswerConfig(splits=("val",), max_new_tokens=4)


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gate_coverage")


@pytest.mark.parametrize(
    ("sizes", "won", "lost"),
    [
        ((8, 8, 32), 0.0, 0.03),
        ((8, 8, 32), 0.05, 0.08),
        ((20,), 0.0, 0.05),
        ((48,), 0.0, 0.03),
        ((48,), 0.05, 0.08),
        ((200,), 0.0, 0.03),
        ((200,), 0.05, 0.08),
        ((64,) * 14, 0.05, 0.08),
        ((12, 12, 48), 0.15, 0.18),
    ],
)
def test_a_policy_that_is_worse_is_hardly_ever_promoted(
    grid: Any, sizes: tuple[int, ...], won: float, lost: float
) -> None:
    """True loss 3 points (20 tasks: 5): below 5 % by the real gate. A bootstrap promoted 23 % of the first, 35 % of the third."""
    world = grid.answers(sizes, won, [lost] * len(sizes))
    assert grid.promoted(world, 1500, np.random.default_rng(4)) < 0.04


def test_a_gain_that_the_tasks_can_show_is_promoted(grid: Any) -> None:
    """What `explain` calls seen four times of five is: the gain is added to what is won, beside 5 % lost."""
    for sizes in ((48,), (200,), (12, 12, 48), (64,) * 14):
        gain = power.usual_gain(sizes, 0.95)
        world = grid.answers(sizes, power.LOST + gain, [power.LOST] * len(sizes))
        low, _ = grid.limits(grid.moments(world.draw(np.random.default_rng(5), 1500)), 0.95)
        assert 0.74 < np.mean(low > 0.0) < 0.88


def test_a_gain_below_what_the_tasks_can_show_is_never_told() -> None:
    """The least gain is exact: one task won less than it, none lost, leaves 0 inside; one more does not."""
    least = power.least_gain([48], 0.95)
    for won in (3, 4):
        rows = [_row(i, float(i < won)) for i in range(48)]
        found = compare(rows, [_row(i, 0.0) for i in range(48)], "val", CONFIG)
        assert (found.verdict == "better") is (won / 48 > least)


def test_small_losses_do_not_add_up(grid: Any) -> None:
    """Every policy is worse than the one before, the last of 30 by six points: the champion stays where it was, within one."""
    ends = grid.decaying(200, 30, 0.005, 0.03, 30, np.random.default_rng(6))
    assert grid.decay(30, 0.005, 0.03) < -0.06 and ends.mean() > -0.01


def test_luck_over_36_looks_is_what_the_gate_does(grid: Any) -> None:
    """The number that `explain` states, from counts, against the real gate on answers; 36 looks at 2 %: every second run."""
    once = grid.promoted(grid.answers((48,), 0.05, [0.08]), 4000, np.random.default_rng(7))
    assert power.luck([48], 0.95, 0.02, -0.03) == pytest.approx(once, abs=0.007)
    assert power.at_least_once(0.02, 36) == pytest.approx(0.517, abs=1e-3)


def _row(number: int, score: float, arm: str = "a") -> EvalRow:
    return EvalRow(
        task_id=f"{arm}/{number}", arm=arm, split="val", sample=0, score=score, length=1, truncated=False, answer=""
    )


@pytest.mark.parametrize(("tasks", "verdict"), [(48, "unknown"), (189, "unknown"), (200, "equal")])
def test_tasks_that_do_not_differ_are_no_proof_of_equality(tasks: int, verdict: str) -> None:
    """190 equal answers rule out a loss of 2 points, and 48 leave room for 7; what is missing is named."""
    rows = [_row(i, float(i % 2)) for i in range(tasks)]
    found = compare(rows, rows, "val", CONFIG)
    assert (found.verdict, found.difference) == (verdict, 0.0)
    if tasks == 48:
        assert found.needed == pytest.approx(190 - 48, abs=10) and f"about {found.needed} more tasks" in found.reason


def test_the_tasks_that_are_said_to_be_missing_are_enough() -> None:
    """7 won and 3 lost of 60: with as many more of the same kind as are named the gain is told, with half of them it is not."""

    def rows(copies: int) -> tuple[list[EvalRow], list[EvalRow]]:
        scores = [(1.0, 0.0)] * 7 + [(0.0, 1.0)] * 3 + [(1.0, 1.0)] * 50
        drawn = [scores[i % 60] for i in range(copies * 60)]
        return [_row(i, s) for i, (s, _) in enumerate(drawn)], [_row(i, s) for i, (_, s) in enumerate(drawn)]

    found = compare(*rows(1), "val", CONFIG)
    assert found.verdict == "unknown" and found.needed is not None
    copies = -(-(found.needed + 60) // 60)
    assert compare(*rows(copies + 1), "val", CONFIG).verdict in ("better", "equal")
    assert compare(*rows(copies // 2), "val", CONFIG).verdict == "unknown"
    won, lost = rows(1)
    behind = compare(lost, won, "val", CONFIG)
    assert behind.verdict == "unknown" and behind.needed is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"evaluate.min_pairs": 1000}, "896"),
        ({"evaluate.tasks_per_arm": 2, "evaluate.min_pairs": 40}, "28, of which 2 in arm 'sort-03'"),
    ],
)
def test_a_validation_set_too_small_to_decide_is_refused(changes: dict[str, int], found: str) -> None:
    """The gate would hold at every iteration and the base stay champion, after hours. With `last` nothing is compared."""
    sets = configs.parse_set([f"{name}={value}" for name, value in changes.items()])
    with pytest.raises(ConfigError, match=r"gate\.select=last") as caught:
        configs.merge(build("sec", "tiny"), sets, where="sec")
    assert caught.value.where.endswith(".evaluate") and found in caught.value.found
    configs.merge(build("sec", "tiny"), {**sets, "gate": {"select": "last"}}, where="sec")


@pytest.mark.parametrize(("name", "scale"), [("sec", "tiny"), ("sec", "small"), ("spark", "tiny")])
def test_explain_states_power_and_luck(name: str, scale: str) -> None:
    recipe = build(name, scale)
    text = " ".join(explain(recipe).split())
    assert "points cannot be seen" in text and f"at least one of {recipe.iterations} looks" in text
    few = dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, tasks_per_arm=8))
    assert "no policy passes as equal without a gain" in " ".join(explain(few).split())


def _gate(iteration: int, decision: Any) -> Entry:
    body = {"iteration": iteration, "evaluation": f"e{iteration}", "decision": configs.to_dict(decision)}
    return Entry(seq=iteration, prev="", kind="gate", body=body, time={})


def test_a_run_whose_gate_cannot_tell_says_so() -> None:
    """Three policies that look better and are held: the end names champion, difference, interval and what would have told."""
    summary = {"splits": {"val": {"score": 0.46, "comparison": None}}}
    rows = [_row(i, float(i < 27)) for i in range(48)]
    base = [_row(i, float(i < 20 or i in (30, 40, 41))) for i in range(48)]
    comparison = compare(rows, base, "val", CONFIG)
    held = {"splits": {"val": {"score": 0.57, "comparison": json.loads(json.dumps(comparison.to_json()))}}}
    history = [summary, held, held, held]
    gates = [_gate(k, decide(history[: k + 1], GateConfig())) for k in range(4)]
    said = ending(gates)
    assert said.startswith(
        "champion is the base policy, not the last one (iteration 3): looks better (+0.083), but could not tell: the interval ["
    )
    assert f"about {comparison.needed} more tasks like these would tell" in said
    assert ending(gates[:1]) == "champion is the base policy, the last one" and ending([]) == ""
