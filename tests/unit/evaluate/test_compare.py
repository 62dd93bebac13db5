"""Verdicts and summaries from evaluation rows, by hand. About 1 s."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from instar.components.evaluate.compare import EXIT_CODES, compare, exit_code, judge, protocol
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.intervals import Interval, wilson
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.evaluate.summary import split_summary, task_means
from instar.errors import ConfigError, ContractError
from instar.rows import EvalRow

CONFIG = AnswerConfig(splits=("val",), max_new_tokens=4, samples=1, min_pairs=10, margin=0.05)


def rows_of(
    arm: str, verdicts: Sequence[float | None], split: str = "val", sample: int = 0, skip: int = 0
) -> list[EvalRow]:
    return [
        EvalRow(
            task_id=f"{arm}/{split}/{i + skip}",
            arm=arm,
            split=split,
            sample=sample,
            score=correct,
            length=3,
            truncated=i == 0,
            answer="",
        )
        for i, correct in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("low", "high", "verdict", "code"),
    [
        (0.01, 0.20, "better", 0),
        (-0.04, 0.30, "equal", 0),
        (-0.05, -0.01, "equal", 0),
        (-0.051, -0.01, "worse", 3),
        (-0.30, -0.10, "worse", 3),
        (-0.10, 0.10, "unknown", 2),
        (-0.06, 0.0, "unknown", 2),
        (0.0, 0.0, "equal", 0),
    ],
)
def test_verdict_table(low: float, high: float, verdict: str, code: int) -> None:
    found, _ = judge(Interval(estimate=(low + high) / 2, low=low, high=high), margin=0.05)
    assert (found, exit_code(found)) == (verdict, code)


def test_exit_codes() -> None:
    assert EXIT_CODES == {"better": 0, "equal": 0, "worse": 3, "unknown": 2}


def test_pairs_are_by_task_and_lost_verdicts_are_counted() -> None:
    """A task whose verifier failed for either policy is no pair; nothing takes its place."""
    ours = rows_of("a", [1.0] * 15 + [None] * 3 + [0.0] * 2)
    theirs = rows_of("a", [None] * 2 + [0.0] * 18)
    found = compare(ours, theirs, "val", CONFIG)
    assert (found.num_tasks, found.num_unpaired) == (15, 5)
    assert found.difference == pytest.approx(13 / 15)
    assert found.verdict == "better"


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (rows_of("a", (rng.random(40) < p).astype(float).tolist()) for p in (0.7, 0.5))
    straight = compare(ours, theirs, "val", CONFIG)
    assert compare(ours[::-1], theirs[7:] + theirs[:7], "val", CONFIG) == straight


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (rows_of("a", [1.0] * 9), rows_of("a", [0.0] * 9), "9 common tasks"),
        (rows_of("a", [1.0] * 20), rows_of("a", [0.0] * 20, skip=20), "0 common tasks"),
        (rows_of("a", [1.0] * 20), rows_of("b", [0.0] * 20), "one policy alone"),
        (rows_of("a", [1.0] * 20) + rows_of("b", [1.0]), rows_of("a", [0.0] * 20) + rows_of("b", [0.0]), "two per arm"),
        (rows_of("a", [1.0, 0.0] * 10), rows_of("a", [0.0, 1.0] * 10), "holds a gain and a loss"),
    ],
)
def test_what_cannot_be_told_is_unknown(ours: list[EvalRow], theirs: list[EvalRow], reason: str) -> None:
    found = compare(ours, theirs, "val", CONFIG)
    assert found.verdict == "unknown" and reason in found.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"judge": JudgeConfig(wording="terse")},
        {"judge": JudgeConfig(wording="terse"), "reflect": ReflectConfig()},
        {"judge": JudgeConfig(wording="terse"), "reflect": ReflectConfig(rounds=1)},
        {"judge": JudgeConfig(wording="terse"), "reflect": ReflectConfig(mode="published")},
        {"judge": JudgeConfig(wording="terse", max_new_tokens=2)},
    ],
)
def test_judge_and_reflection_are_part_of_the_protocol(changes: dict[str, Any]) -> None:
    base = dataclasses.replace(CONFIG, style="line", greedy=True)
    changed = dataclasses.replace(base, **changes)
    assert protocol(changed, []) == protocol(dataclasses.replace(changed), []) != protocol(base, [])


def test_other_splits_and_greedy_answers_stay_out() -> None:
    ours = rows_of("a", [1.0] * 20) + rows_of("a", [0.0] * 50, split="id") + rows_of("a", [0.0] * 20, sample=-1)
    assert task_means(ours, "val", greedy=False) == {"a": {f"a/val/{i}": 1.0 for i in range(20)}}
    assert set(task_means(ours, "val", greedy=True)["a"].values()) == {0.0}


def test_summary_by_hand() -> None:
    """Task means first: one task of three right samples weighs as much as one task of one wrong sample."""
    rows = rows_of("a", [1.0] * 6 + [0.0] * 2) + rows_of("a", [1.0, None, None, None, None, None, None, 1.0], sample=1)
    rows += rows_of("b", [0.0, 0.0, 1.0, None])
    found = split_summary(rows, "val", CONFIG)
    a, b = found["arms"]["a"], found["arms"]["b"]
    assert (a["score"], a["num_tasks"], a["num_answers"], a["num_without_verdict"]) == (6.5 / 8, 8, 16, 6)
    assert (b["score"], b["num_tasks"], b["num_without_verdict"]) == (pytest.approx(1 / 3), 3, 1)
    assert (b["low"], b["high"]) == wilson(b["score"], 3, 0.95)
    assert found["score"] == pytest.approx((6.5 / 8 + 1 / 3) / 2)
    assert found["low"] < found["score"] < found["high"]
    assert (found["worst_arm"], found["worst_score"]) == ("b", b["score"])
    assert b["truncated_share"] == 0.25 and b["mean_length"] == 3.0


def test_arm_without_any_verdict_is_refused() -> None:
    """Leaving the arm out would raise the macro mean: a broken verifier must not look like progress."""
    with pytest.raises(ContractError, match="'b'"):
        split_summary(rows_of("a", [1.0] * 8) + rows_of("b", [None] * 8), "val", CONFIG)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"splits": ("test",)}, "splits"),
        ({"splits": ()}, "splits"),
        ({"splits": ("val", "val")}, "splits"),
        ({"samples": 0}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"confidence": 1.0}, "confidence"),
        ({"tasks_per_arm": 1}, "tasks_per_arm"),
        ({"min_pairs": 1}, "min_pairs"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluate.{field}"):
        AnswerConfig(**{"max_new_tokens": 4, **changes})  # type: ignore[arg-type]
