"""Rows of generated tasks, and groups of attempts. One second."""

from __future__ import annotations

import dataclasses
import json

import pytest

from instar import schema
from instar.components.generated.groups import collect
from instar.components.generated.item import Origin, is_generated, key_of, make, origin, question_of, style_of
from instar.components.reward.verifiers import Score, chance, verify
from instar.errors import ContractError
from instar.rows import TaskRow
from support.attempts import attempts, rollout, task, text_of

ABOUT = Origin(
    kind="judge-point",
    wording="words",
    template="P2/3",
    label="wrong",
    parent="sort/train/00007",
    group="g",
    policy="p",
    step=4,
    key="k",
)


def row(about: Origin = ABOUT, parent: TaskRow | None = None) -> TaskRow:
    return make(f"{about.kind}/train/0", parent or task(7, form="chat"), about, "Is it right?", seed=5)


def test_a_judge_task_by_hand() -> None:
    made = row()
    assert made.arm == "judge-point" and made.form == "chat" and made.level == 3.0 and made.domain == "sorting"
    assert made.verifier == "label"
    assert json.loads(made.reference) == {"answer": "B", "labels": ["A", "B"], "chance": 0.5}
    assert origin(made) == ABOUT and is_generated(made) and not is_generated(task(7))
    assert verify(made, "\\boxed{B}", "line") == Score(correct=1.0, format_ok=True)  # its own style, not the stage's
    assert verify(made, "B", "line") == Score(correct=0.0, format_ok=False)
    schema.to_table(TaskRow, [made])


@pytest.mark.parametrize(
    ("kind", "template", "label", "expected"),
    [
        ("judge-point", "P1/0", "right", "Yes"),
        ("judge-point", "P1/0", "wrong", "No"),
        ("judge-point", "P2/0", "right", "A"),
        ("judge-pair", "P3/0", "first", "A"),
        ("judge-pair", "P3/0", "second", "B"),
    ],
)
def test_the_expected_verdict_follows_from_label_and_family(
    kind: str, template: str, label: str, expected: str
) -> None:
    made = row(dataclasses.replace(ABOUT, kind=kind, template=template, label=label))
    assert json.loads(made.reference)["answer"] == expected


@pytest.mark.parametrize("kind", ["reflect-trace", "reflect-answer"])
def test_a_reflection_is_scored_by_the_rules_of_its_parent(kind: str) -> None:
    parent = task(7)
    made = row(dataclasses.replace(ABOUT, kind=kind, template="P5/0"), parent)
    assert (made.verifier, made.reference) == (parent.verifier, parent.reference) and chance(made) == 0.125
    assert verify(made, "so \\boxed{12}", "line") == Score(correct=1.0, format_ok=True)


def test_the_style_is_that_of_the_wording() -> None:
    terse = row(dataclasses.replace(ABOUT, wording="terse", template="P1/0"))
    assert (style_of(task(1), "tag"), style_of(row(), "tag"), style_of(terse, "tag")) == ("tag", "boxed", "line")


def test_the_key_names_parent_family_and_texts_but_not_the_order_of_a_pair() -> None:
    base = key_of("t", ["12", "21"], "P3")
    assert base == key_of("t", ["21", "12"], "P3") and len(base) == 32
    others = [key_of("u", ["12", "21"], "P3"), key_of("t", ["12", "22"], "P3"), key_of("t", ["12", "21"], "P1")]
    assert len({base, *others}) == 4


def test_the_bare_question_is_a_field_and_never_searched_for_in_a_prompt() -> None:
    tricky = task(1, prompt="User: u Assistant: ", features=json.dumps({"question": "What does the user say?"}))
    assert question_of(tricky, "words") == "What does the user say?"
    assert question_of(task(1, features="{}"), "terse") == "211="
    with pytest.raises(ContractError, match="bare question"):
        question_of(task(1, features="{}"), "words")


def test_features_that_say_nothing_of_the_origin_are_refused() -> None:
    with pytest.raises(ContractError, match="features with"):
        origin(dataclasses.replace(row(), features="{}"))
    with pytest.raises(ContractError, match="a wording of words"):
        style_of(dataclasses.replace(row(), features="{}"), "line")


def test_groups_keep_what_can_be_told_right_from_wrong() -> None:
    step = attempts([(task(0), ["12", "21", "", "12"]), (task(1), ["9", "9", "9", "12"])])
    scores = step.scores
    scores[3] = dataclasses.replace(scores[3], status="failed", correct=None, reward=None, reason="boom")
    scores[7] = dataclasses.replace(scores[7], correct=0.5)
    step.rollouts[4] = dataclasses.replace(step.rollouts[4], truncated=True)
    groups, dropped = collect(step.tasks, step.rollouts, scores, text_of, "line")
    assert [(g.group_id, [a.text for a in g.right], [a.text for a in g.wrong]) for g in groups] == [
        ("g000", ["12"], ["21"]),
        ("g001", [], ["9", "9"]),
    ]
    assert dropped == {"blank": 1, "unscored": 1, "truncated": 1, "partial": 1}
    kept, _ = collect(step.tasks, step.rollouts, scores, text_of, "line", keep_truncated=True)
    assert len(kept[1].wrong) == 3


def test_a_group_over_two_tasks_is_refused() -> None:
    step = attempts([(task(0), ["12"]), (task(1), ["12"])])
    step.rollouts[1] = rollout(task(1), "g000", 1, "12")
    with pytest.raises(ContractError, match="one task in group g000"):
        collect(step.tasks, step.rollouts, step.scores, text_of, "line")
