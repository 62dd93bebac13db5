"""Numbers about a judge, worked out by hand. Under 1 s."""

from __future__ import annotations

from typing import Any

import pytest

from instar.components.evaluate.quality import Anchored, Opinion, anchor_quality, own_quality, units


def own(*opinions: tuple[bool, bool | None, float | None]) -> dict[str, Any]:
    made = [Opinion(right=r, says=s, probability=p) for r, s, p in opinions]
    return own_quality(made, 0.95)


def anchors(kind: str, *says: tuple[bool | None, bool | None]) -> list[Anchored]:
    """Units whose first question is due the first label and whose second the other; `says` is what was said to each."""
    return [
        Anchored(kind=kind, unit=f"{kind}/{i}", first=first, says=said, score=float(said is first))
        for i, pair in enumerate(says)
        for first, said in zip((True, False), pair, strict=True)
    ]


def quality(items: list[Anchored]) -> dict[str, Any]:
    return anchor_quality(items, 0.95)


def test_own_answers_by_hand() -> None:
    """5 right: 3 accepted, 1 rejected, 1 unreadable; 3 wrong: 1 accepted, 2 rejected. Precision 3/4, recall 3/5, F1 6/9."""
    yes, no = (True, 0.9), (False, 0.8)
    found = own(*[(True, *yes)] * 3, (True, *no), (True, None, None), (False, *yes), *[(False, *no)] * 2)
    assert (found["num"], found["num_right"], found["num_accepted"]) == (8, 5, 4)
    assert (found["precision"], found["recall"], found["f1"]) == (0.75, 0.6, pytest.approx(2 / 3))
    assert found["balanced_accuracy"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert found["low"] < found["balanced_accuracy"] < found["high"]
    assert found["parse_rate"] == 7 / 8
    # beliefs: .9 four times (3 right), .2 three times (1 right)
    assert found["brier"] == pytest.approx((3 * 0.01 + 0.81 + 0.64 + 2 * 0.04) / 7)
    assert found["ece"] == pytest.approx((abs(4 * 0.9 - 3) + abs(3 * 0.2 - 1)) / 7)


def test_a_judge_that_always_accepts_has_a_good_f1_and_no_balanced_accuracy() -> None:
    """At 90 % accuracy: F1 is 18/19, and the balanced accuracy says that nothing is told apart."""
    found = own(*[(True, True, 1.0)] * 9, *[(False, True, 1.0)] * 2)
    assert found["f1"] == pytest.approx(18 / 20) and found["recall"] == 1.0
    assert found["balanced_accuracy"] == 0.5


def test_what_is_undefined_is_none() -> None:
    found = own(*[(True, True, None)] * 3)
    assert (found["balanced_accuracy"], found["low"], found["brier"], found["ece"]) == (None, None, None, None)
    assert (found["precision"], found["f1"]) == (1.0, 1.0)
    nothing = own()
    assert nothing["num"] == 0 and nothing["parse_rate"] is None and nothing["f1"] is None
    rejects = own((False, False, 0.5), (False, False, 0.5))
    assert rejects["precision"] is None and rejects["recall"] is None and rejects["f1"] is None


@pytest.mark.parametrize("said", [True, False])
def test_a_constant_judge_gets_one_half_exactly(said: bool) -> None:
    """Without any spread; the interval says how little 30 questions rule out, and lies above no gate."""
    found = quality(anchors("judge-point", *[(said, said)] * 30))
    assert found["balanced_accuracy"] == 0.5 and 0.35 < found["low"] < 0.5 < found["high"] < 0.65
    assert found["kinds"]["judge-point"]["bias"] == (1.0 if said else -1.0)


def test_kinds_weigh_the_same() -> None:
    """Points: 3 of 4 units right twice, one accepted twice; pairs: 1 of 2 right twice, one wrong twice."""
    right, yes, wrong = (True, False), (True, True), (False, True)
    found = quality(anchors("judge-point", right, right, right, yes) + anchors("judge-pair", right, wrong))
    point, pair = found["kinds"]["judge-point"], found["kinds"]["judge-pair"]
    assert (point["balanced_accuracy"], pair["balanced_accuracy"]) == (7 / 8, 0.5)
    assert found["balanced_accuracy"] == pytest.approx(11 / 16)
    assert (point["recall_first"], point["recall_second"], point["bias"]) == (1.0, 0.75, 0.25)
    assert (pair["bias"], pair["consistency"], point["consistency"]) == (0.0, 1.0, 0.75)


def test_unreadable_verdicts_are_mistakes_on_both_sides() -> None:
    found = quality(anchors("judge-point", (True, None), (None, None), (True, False)))
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    assert found["parse_rate"] == 0.5 and found["kinds"]["judge-point"]["consistency"] == 1.0


def test_intervals_end_where_shares_do() -> None:
    found = quality(anchors("judge-point", (True, False), (True, False), (True, False), (False, True)))
    assert 0.0 <= found["low"] < found["balanced_accuracy"] == 0.75 < found["high"] == 1.0
    few = own((True, True, None), (True, True, None), (True, False, None), (False, False, None), (False, False, None))
    assert few["balanced_accuracy"] == pytest.approx(5 / 6) and few["high"] == 1.0


def test_units_without_both_verdicts_are_left_out() -> None:
    """A verifier that failed is no wrong verdict, and half a unit would unbalance the classes."""
    items = anchors("judge-point", (True, False), (True, False), (True, True))
    broken = [*items[:5], Anchored(kind="judge-point", unit="judge-point/2", first=False, says=None, score=None)]
    assert units(broken) == {"judge-point": {"judge-point/0": 1.0, "judge-point/1": 1.0}}
    assert units(items[:3]) == {}
    empty = quality(items[:3])
    assert empty["balanced_accuracy"] is None and empty["kinds"] == {}
