"""Anchors from real pools: balanced exactly, disjoint from training, wrong answers really wrong. About 2 s."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from instar import seeds
from instar.components.dataset_prep.config import PoolsConfig
from instar.components.dataset_prep.pools import build_pools
from instar.components.generated import templates
from instar.components.generated.anchors import AnchorConfig, build
from instar.components.generated.corrupt import is_right, is_wrong, off_by_one, replaced, swapped, wrong_answer
from instar.components.generated.item import origin
from instar.components.reward.verifiers import Score, verify
from instar.errors import ConfigError, ContractError
from instar.pipelines.recipes.sec import sorting, zebra
from instar.pipelines.recipes.spark import sums
from instar.rows import TaskRow


def key(name: str) -> int:
    return seeds.seed("evo", 0, "dataset_prep", name)


@pytest.fixture(scope="module")
def rows() -> list[TaskRow]:
    arms = sorting(range(3, 7), ood=range(7, 8), train=40, val=12, test=4)
    return build_pools(PoolsConfig(arms=arms, template="terse"), key)


TERSE = AnchorConfig(wording="terse", questions=20)


def test_every_unit_asks_for_either_verdict_once(rows: list[TaskRow]) -> None:
    made = build(rows, TERSE, key)
    assert len(made) == 2 * 2 * 20 and len({row.task_id for row in made}) == len(made)
    assert {row.split for row in made} == {"anchor"}
    for kind, labels in (("judge-point", ["y", "n"]), ("judge-pair", ["a", "b"])):
        mine = [row for row in made if row.arm == kind]
        units: dict[str, list[str]] = {}
        for row in mine:
            assert row.task_id.startswith(origin(row).group)
            units.setdefault(origin(row).group, []).append(json.loads(row.reference)["answer"])
        assert len(units) == 20 and all(found == labels for found in units.values())


def test_units_cover_the_arms_evenly_and_no_question_is_asked_in_two_units(rows: list[TaskRow]) -> None:
    made = build(rows, TERSE, key)
    parents = {origin(row).group: origin(row).parent for row in made}
    assert len(set(parents.values())) == len(parents) == 40
    by_arm = Counter(name.partition("/")[0] for name in parents.values())
    assert by_arm == {f"sort-{n:02d}": 10 for n in range(3, 7)}
    first = [name for unit, name in parents.items() if unit.startswith("judge-point")][:4]
    assert sorted(name.partition("/")[0] for name in first) != ["sort-03"] * 4


@pytest.mark.parametrize("arms", [1, 2, 3, 4, 5])
def test_either_kind_covers_every_arm_evenly_whatever_their_number(arms: int) -> None:
    """Of two arms the one would have all single answers and the other all pairs, if kinds took turns over all units."""
    ladder = sorting(range(4, 4 + arms), ood=range(12, 13), train=20, val=40, test=2)
    made = build(build_pools(PoolsConfig(arms=ladder, template="terse"), key), TERSE, key)
    for kind in ("judge-point", "judge-pair"):
        units = {origin(row).group: origin(row).parent.partition("/")[0] for row in made if row.arm == kind}
        assert len(units) == 20 and sorted(units) == [f"{kind}/anchor/{n:05d}" for n in range(20)]
        for first in (arms, 2 * arms, 20):
            found = Counter(list(units.values())[:first])
            assert len(found) == min(arms, first) and max(found.values()) - min(found.values()) <= 1


def test_unequal_pools_keep_the_number_of_either_kind() -> None:
    ladder = sorting(range(4, 8), ood=range(12, 13), train=20, val=40, test=2)
    rows = build_pools(PoolsConfig(arms=ladder, template="terse"), key)
    few = [r for r in rows if r.split != "val" or r.arm == "sort-07" or int(r.task_id[-5:]) < 3]
    assert Counter(row.arm for row in build(few, TERSE, key)) == {"judge-point": 40, "judge-pair": 40}


def test_questions_come_from_the_validation_pool_and_never_from_training(rows: list[TaskRow]) -> None:
    made = build(rows, TERSE, key)
    parents = {origin(row).parent for row in made}
    assert all("/val/" in name for name in parents)
    stolen = next(row for row in rows if row.task_id in parents)
    planted = dataclasses.replace(stolen, task_id="sort-03/train/99999", split="train")
    with pytest.raises(ContractError, match="training never sees"):
        build([*rows, planted], TERSE, key)


def test_shown_answers_are_what_the_labels_say(rows: list[TaskRow]) -> None:
    """Parsed back out of the terse prompts: `<digits>=<answer>?` and `<digits>=<a>|<b>?`."""
    parents = {row.task_id: row for row in rows}
    for row in build(rows, TERSE, key):
        parent, due = parents[origin(row).parent], json.loads(row.reference)["answer"]
        assert row.prompt.startswith(parent.prompt) and row.prompt.endswith("?")
        shown = row.prompt.removeprefix(parent.prompt)[:-1].split("|")
        truth = [is_right(parent, answer) for answer in shown]
        assert truth == ([due == "y"] if len(shown) == 1 else [due == "a", due == "b"])
        assert isinstance(verdict := verify(row, due, "boxed"), Score) and verdict.correct == 1.0
        other = {"y": "n", "n": "y", "a": "b", "b": "a"}[due]
        assert isinstance(verdict := verify(row, other, "boxed"), Score) and verdict.correct == 0.0


def test_same_seed_same_anchors(rows: list[TaskRow]) -> None:
    assert build(rows, TERSE, key) == build(rows, TERSE, key)
    other = build(rows, TERSE, lambda name: seeds.seed("other", 0, "dataset_prep", name))
    assert [row.prompt for row in other] != [row.prompt for row in build(rows, TERSE, key)]
    assert build(rows, dataclasses.replace(TERSE, questions=5), key)[:4] == build(rows, TERSE, key)[:4]


def test_words_use_many_templates_and_both_pointwise_families(rows: list[TaskRow]) -> None:
    worded = [
        dataclasses.replace(row, features=json.dumps({"question": f"Sort {row.prompt}"}), form="chat") for row in rows
    ]
    made = build(worded, AnchorConfig(wording="words", questions=20), key)
    families = Counter(origin(row).family for row in made)
    assert families["P3"] == 40 and families["P1"] + families["P2"] == 40 and min(families.values()) > 5
    assert len({origin(row).template for row in made}) > 12
    assert all("Sort " in row.prompt and row.form == "chat" for row in made)
    point = [row for row in made if origin(row).family == "P2"][:2]
    assert [json.loads(row.reference)["answer"] for row in point] == ["A", "B"]


def test_wrong_answers_of_numbers_and_names() -> None:
    """Numbers stay numbers that the arm's answers hold or that are as long; a name is replaced by another name of the arm."""
    arms = [a for a in sums(train=2, val=60, test=2) if not a.ood][:2]
    arms += [a for a in zebra(train=2, val=12, test=2) if not a.ood][:1]
    rows = [r for r in build_pools(PoolsConfig(arms=tuple(arms), template="plain"), key) if r.split == "val"]
    kinds: Counter[str] = Counter()
    for i, row in enumerate(rows):
        right = json.loads(row.reference)["answer"]
        others = [json.loads(r.reference)["answer"] for r in rows if r.arm == row.arm]
        wrong = wrong_answer(row, right, others, np.random.default_rng(i))
        assert is_wrong(row, wrong) and not is_right(row, wrong)
        if row.verifier == "number":
            assert str(int(wrong)) == wrong and (wrong in others or len(wrong) == len(right))
            kinds["near" if abs(int(wrong) - int(right)) == 1 else "far"] += 1
        else:
            assert wrong in others
    assert min(kinds.values()) > 5


def test_small_numbers_give_nothing_away_without_the_question() -> None:
    """Counts of 0 to 3: every answer that is shown as wrong is also right somewhere, and each about as often."""
    counts = ["0", "1", "1", "1", "2", "2", "2", "3"]
    found = Counter(
        wrong_answer(task(right), right, counts, np.random.default_rng(100 * i + j))
        for i, right in enumerate(counts)
        for j in range(50)
    )
    assert set(found) == set(counts)
    assert all(0.4 < (found[c] / 400) / (counts.count(c) / 8) < 2.5 for c in set(counts))


def test_changes_by_hand() -> None:
    generator = np.random.default_rng(0)
    assert swapped("12", generator) == "21" and swapped("77", generator) is None and swapped("a", generator) is None
    assert {swapped("1-23", np.random.default_rng(i)) for i in range(20)} == {"1-32"}
    found = {replaced("5", np.random.default_rng(i)) for i in range(200)}
    assert found == set("012346789") and replaced("no digit", generator) is None
    assert {off_by_one("-9", np.random.default_rng(i)) for i in range(20)} == {"-8", "-10"}
    assert off_by_one("007", generator) is None and off_by_one("1/2", generator) is None


def task(answer: str, verifier: str = "exact") -> TaskRow:
    return TaskRow(
        task_id="a/val/0",
        arm="a",
        domain="d",
        level=1.0,
        split="val",
        prompt="q?",
        verifier=verifier,
        reference=json.dumps({"answer": answer}),
        features="{}",
        content_hash="0" * 64,
        generator="g/1",
        seed=0,
    )


def test_an_answer_that_nothing_contradicts_is_a_named_error() -> None:
    with pytest.raises(ContractError, match="a wrong answer that verifier 'exact' rejects"):
        wrong_answer(task("yes"), "yes", ["yes", "yes"], np.random.default_rng(0))
    assert wrong_answer(task("yes"), "yes", ["yes", "no"], np.random.default_rng(0)) == "no"


def test_a_reference_that_its_verifier_rejects_is_a_named_error(rows: list[TaskRow]) -> None:
    broken = [dataclasses.replace(r, reference="{}") if r.split == "val" else r for r in rows]
    with pytest.raises(ContractError, match="a stored answer that verifier 'exact' accepts"):
        build(broken, TERSE, key)


def test_too_few_validation_tasks_are_refused(rows: list[TaskRow]) -> None:
    with pytest.raises(ContractError, match="50 validation tasks"):
        build(rows, AnchorConfig(wording="terse", questions=25), key)
    with pytest.raises(ConfigError, match=r"anchors\.questions"):
        AnchorConfig(questions=1)
    assert set(templates.FAMILIES["terse"]) >= {"P1", "P3"}
