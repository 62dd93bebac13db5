"""Verdict tables of every verifier: right, wrong, malformed, hostile. One second."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from instar.components.reward import verifiers
from instar.components.reward.verifiers import VERIFIERS, Abstain, Failed, Score, chance, verify
from instar.errors import ContractError
from instar.rows import TaskRow


def task(verifier: str, reference: Any) -> TaskRow:
    return TaskRow(
        task_id="a/train/0",
        arm="a",
        domain="d",
        level=1.0,
        split="train",
        prompt="p",
        verifier=verifier,
        reference=reference if isinstance(reference, str) else json.dumps(reference),
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )


COUNTDOWN = {"numbers": [3, 3, 8, 8], "target": 24}
RIGHT = Score(correct=1.0, format_ok=True)
WRONG = Score(correct=0.0, format_ok=True)

TABLE = [
    ("countdown", COUNTDOWN, "8/(3-8/3)", RIGHT),  # only exact arithmetic gets 24 here
    ("countdown", COUNTDOWN, "3*8", WRONG),
    ("countdown", COUNTDOWN, "3*8+3-8/8", WRONG),
    ("countdown", COUNTDOWN, "24", WRONG),
    ("countdown", {"numbers": [1, 2], "target": 12}, "12", WRONG),
    ("countdown", {"numbers": [1, 2], "target": 3}, " 2 + 1 ", RIGHT),
    ("countdown", {"numbers": [1, 2], "target": 3}, "1+2=3", WRONG),
    *[
        ("countdown", {"numbers": [2, 6], "target": 12}, f"2{sign}6", RIGHT)
        for sign in "*\u00d7\u00b7\u22c5\u2217\u2219\uff0a"
    ],
    *[("countdown", {"numbers": [2, 6], "target": 3}, f"6{sign}2.", RIGHT) for sign in "/\u00f7\u2215\u2044\uff0f"],
    *[
        ("countdown", {"numbers": [2, 6], "target": 4}, f"\uff086{sign}2\uff09", RIGHT)
        for sign in "-\u2212\u2013\u2011\uff0d"
    ],
    *[
        ("countdown", {"numbers": [2, 6], "target": 12}, text, WRONG)
        for text in ("2x6", "26", "2.6", "2\u22c56\u22c51", "2\u20146")
    ],
    ("countdown", {"numbers": [2, 6], "target": 36}, "6\u00b2", WRONG),
    ("countdown", {"numbers": [2, 6], "target": 12}, r"2 \ast 6", RIGHT),
    ("countdown", {"numbers": [1, 2], "target": 1}, "-1+2", RIGHT),
    ("countdown", {"numbers": [1, 2, 2], "target": 3}, "1+2", WRONG),
    ("countdown", {"numbers": [1, 2], "target": 3}, "1+2+0", WRONG),
    ("countdown", {"numbers": [1, 99_999], "target": 0}, "1/99999", WRONG),  # 1.00001e-5: just outside the tolerance
    ("countdown", {"numbers": [1, 100_000], "target": 0}, "1/100000", RIGHT),  # exactly 1e-5
    ("countdown", {"numbers": [1, 0], "target": 1}, "1/0", WRONG),
    ("countdown", {"numbers": [9, 9], "target": 1}, "9**9**9", WRONG),
    ("countdown", {"numbers": [9, 9], "target": 1}, "__import__('os').abort()", WRONG),
    ("countdown", {"numbers": [9, 9], "target": 1}, "9" * 10**6, WRONG),
    ("countdown", {"numbers": [9, 9], "target": 1}, "(" * 10**6, WRONG),
    ("zebra", {"answer": "Ada", "chance": 1 / 3}, "ada ", RIGHT),
    ("zebra", {"answer": "Ada"}, "ADA", RIGHT),
    ("zebra", {"answer": "Ada"}, "Ada, Boris", WRONG),
    ("zebra", {"answer": "Ada"}, "Adam", WRONG),
    ("arc1d", {"answer": "0 1 2"}, "0 1 2", RIGHT),
    ("arc1d", {"answer": "0 1 2"}, "012", RIGHT),
    ("arc1d", {"answer": "0 1 2"}, "0  1\t2", RIGHT),
    ("arc1d", {"answer": "0 1 2"}, "0 1 2 0", WRONG),
    ("arc1d", {"answer": "0 1 2"}, "0, 1, 2", WRONG),
    ("arc1d", {"answer": "0 1 2"}, "2 1 0", WRONG),
    ("exact", {"answer": "Yes"}, "Yes", RIGHT),
    ("exact", {"answer": "Yes"}, "yes", WRONG),
    ("exact", {"answer": "Yes", "casefold": True}, "YES", RIGHT),
    ("exact", {"answer": "straße", "casefold": True}, "STRASSE", RIGHT),
    ("exact", {"answer": " a"}, "a", RIGHT),
    ("exact", {"answer": " a", "strip": False}, "a", WRONG),
    ("exact", {"answer": None}, "a", Abstain(reason="the task has no label")),
    ("number", {"answer": "-12"}, "-12", RIGHT),
    ("number", {"answer": "-12"}, "−12.0", RIGHT),
    ("number", {"answer": "1000"}, "1,000", RIGHT),
    ("number", {"answer": "1000"}, "1,00", WRONG),
    ("number", {"answer": "0.5"}, "1/2", RIGHT),
    *[
        ("number", {"answer": 0.5}, text, RIGHT)
        for text in (".5", "0.5.", " +.5 ", "\uff10\uff0e\uff15", "1/2.", "1\u20442")
    ],
    *[
        ("number", {"answer": "5"}, text, RIGHT)
        for text in ("5.", "5 .", "\u0665", "\uff15", "+5", "\uff0b5", "10\u22152")
    ],
    *[("number", {"answer": "-5"}, f"{sign}5", RIGHT) for sign in "-\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"],
    *[
        ("number", {"answer": "5"}, text, WRONG)
        for text in ("5..", ".", "5\u00b2", "\u20145", "5%", "5 cm", "5,", "4.5.", "--5")
    ],
    ("number", {"answer": "1000"}, "1,000.", RIGHT),
    ("number", {"answer": "1000"}, "1.000", WRONG),
    ("number", {"answer": "50"}, "50%", WRONG),
    ("number", {"answer": "0.5"}, "1./2", WRONG),
    ("number", {"answer": "42"}, "\u201342", WRONG),
    ("number", {"answer": "1/3"}, "0.3333", WRONG),
    ("number", {"answer": "1/3", "tolerance": 0.001}, "0.3333", RIGHT),
    ("number", {"answer": "1"}, "1/0", WRONG),
    ("number", {"answer": "1"}, "1e999999999", WRONG),
    ("number", {"answer": "1"}, "9" * 10**6, WRONG),
    ("number", {"answer": "1"}, "nan", WRONG),
    ("number", {"answer": "1"}, "inf", WRONG),
    ("number", {"answer": "1"}, "1 2", WRONG),
    ("number", {"answer": None}, "1", Abstain(reason="the task has no label")),
    ("label", {"answer": "Yes", "labels": ["Yes", "No"]}, " yes. ", RIGHT),
    ("label", {"answer": "Yes", "labels": ["Yes", "No"]}, r"\text{Yes}", RIGHT),
    ("label", {"answer": "Yes", "labels": ["Yes", "No"]}, "no", WRONG),
    ("label", {"answer": "No", "labels": ["Yes", "No"]}, "not sure", Score(correct=0.0, format_ok=False)),
    ("label", {"answer": "A", "labels": ["A", "B"]}, "A or B", Score(correct=0.0, format_ok=False)),
]


@pytest.mark.parametrize(
    ("name", "reference", "answer", "verdict"), TABLE, ids=[f"{t[0]}-{t[2][:20]!r}" for t in TABLE]
)
def test_table(name: str, reference: dict[str, Any], answer: str, verdict: object) -> None:
    assert verify(task(name, reference), f"\\boxed{{{answer}}}", "boxed") == verdict


@pytest.mark.parametrize("name", sorted(VERIFIERS))
def test_no_answer_is_wrong_and_unformatted_for_every_verifier(name: str) -> None:
    general = {"answer": "", "numbers": [1], "target": 1, "labels": [""]}
    reference = general if name != "number" else {"answer": "0"}
    assert verify(task(name, reference), "no box here", "boxed") == Score(correct=0.0, format_ok=False)


MALFORMED = [
    ("label", {"answer": "Maybe", "labels": ["Yes", "No"]}, "ValueError"),
    ("label", {"answer": "Yes"}, "KeyError"),
    ("countdown", {"numbers": [1, 2]}, "KeyError"),
    ("countdown", {"target": 3}, "KeyError"),
    ("countdown", {"numbers": ["1", "2"], "target": 3}, "TypeError"),
    ("countdown", {"numbers": [1.5, 2], "target": 3}, "TypeError"),
    ("countdown", {"numbers": [], "target": 3}, "TypeError"),
    ("countdown", {"numbers": [1, 2], "target": "three"}, "ValueError"),
    ("countdown", [1, 2], "TypeError"),
    ("zebra", {}, "KeyError"),
    ("zebra", {"answer": 3}, "TypeError"),
    ("arc1d", {"answer": [0, 1]}, "TypeError"),
    ("number", {"answer": "many"}, "ValueError"),
    ("exact", "not json", "JSONDecodeError"),
    ("exact", "null", "TypeError"),
]


@pytest.mark.parametrize(("name", "reference", "kind"), MALFORMED)
@pytest.mark.parametrize("text", [r"\boxed{1+2}", "no answer at all"])
def test_a_malformed_reference_is_a_failure_whatever_the_policy_wrote(
    name: str, reference: Any, kind: str, text: str
) -> None:
    verdict = verify(task(name, reference), text, "boxed")
    assert isinstance(verdict, Failed) and verdict.reason.startswith(kind)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_a_verdict_that_is_no_probability_is_a_failure(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setitem(
        VERIFIERS, "exact", lambda answer, reference: Score(correct=value, format_ok=bool(answer and reference))
    )
    verdict = verify(task("exact", {"answer": "a"}), "a", "line")
    assert isinstance(verdict, Failed) and verdict.reason.startswith("ValueError")


def test_a_component_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="components"):
        Score(correct=1.0, format_ok=True, components={"length": math.nan})


def test_an_unknown_verifier_is_a_contract_error_not_a_verdict() -> None:
    with pytest.raises(ContractError, match="did you mean 'countdown'"):
        verify(task("countdwn", {}), "x", "line")


def test_chance() -> None:
    assert chance(task("zebra", {"answer": "Ada", "chance": 0.25})) == 0.25
    assert chance(task("countdown", COUNTDOWN)) == 0.0
    for bad in (1.0, -0.1, "half"):
        with pytest.raises(ContractError, match="chance"):
            chance(task("zebra", {"answer": "Ada", "chance": bad}))


def test_the_scorer_version_is_positive() -> None:
    assert verifiers.VERSION >= 1
