"""Anchors: questions about given answers whose verdicts are known, by which a judge is measured (SPARK sections 6 and 7.6).

They are made once, from validation tasks, and no rollout is in them: every policy of an evolution judges the same, so a fall is
the judge's and not that of the answers. Right answers come from the references, wrong ones from a small change of the right one
that the task's own verifier rejects. A unit is one question asked twice: of an answer that is right and of one that is wrong, or
of a pair in both orders. Labels are balanced exactly, overall and in every unit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from instar.components.generated import templates
from instar.components.generated.corrupt import is_right, wrong_answer
from instar.components.generated.item import LABELS, Origin, key_of, make, question_of
from instar.errors import ConfigError, ContractError
from instar.rows import TaskRow
from instar.seeds import rng

SPLIT = "anchor"
POINT, PAIR = "judge-point", "judge-pair"


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """How many questions, and in which form: that of the generated tasks in training."""

    wording: templates.Wording = "words"
    questions: int = 64
    """Units per kind, spread evenly over the arms that have validation tasks."""

    def __post_init__(self) -> None:
        if self.questions < 2:
            raise ConfigError(
                expected="at least 2",
                found=f"{self.questions}",
                where="dataset_prep.anchors.questions",
                action="take about 64; an interval of the balanced accuracy needs them",
            )


def build(rows: Sequence[TaskRow], config: AnchorConfig, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return four rows per pair of questions: the two of a `judge-point` unit and the two of a `judge-pair` unit.

    Units go round the arms and alternate between kinds in every arm, so the first n of either kind cover the arms evenly.
    `seed_of(name)` keys the choice of tasks, templates and wrong answers. Raises `ContractError` when validation tasks are too few,
    a question is in the training pool too, a stored answer is not accepted, or no wrong answer can be made.
    """
    chosen = _questions(rows, 2 * config.questions, config.wording, seed_of)
    others = {arm: [_answer(r) for r in rows if r.split == "val" and r.arm == arm] for arm in {r.arm for r in chosen}}
    out: list[TaskRow] = []
    made = {POINT: 0, PAIR: 0}
    for task, kind in zip(chosen, _kinds(chosen, config.questions), strict=True):
        unit = f"{kind}/{SPLIT}/{made[kind]:05d}"
        made[kind] += 1
        seed = seed_of(unit) % (1 << 62)
        generator = rng("anchor", 0, kind, seed)
        right = _answer(task)
        wrong = wrong_answer(task, right, others[task.arm], generator)
        out += _unit(task, kind, unit, (right, wrong), config.wording, generator, seed)
    return out


def _questions(rows: Sequence[TaskRow], count: int, wording: str, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return `count` validation tasks, shuffled within their arms, arm after arm in turn."""
    trained = {(r.domain, question_of(r, wording)) for r in rows if r.split == "train"}
    pools: dict[str, list[TaskRow]] = {}
    for row in rows:
        if row.split == "val":
            pools.setdefault(row.arm, []).append(row)
    available = sum(map(len, pools.values()))
    if available < count:
        raise _wrong(f"{count} validation tasks", f"{available}", "raise the val pools or lower anchors.questions")
    orders = {arm: rng("anchor", 0, "order", seed_of(f"{SPLIT}/{arm}")).permutation(len(p)) for arm, p in pools.items()}
    turns = [(place, arm) for arm in sorted(pools) for place in range(len(pools[arm]))]
    picked = [pools[arm][int(orders[arm][place])] for place, arm in sorted(turns)[:count]]
    shared = [row.task_id for row in picked if (row.domain, question_of(row, wording)) in trained]
    if shared:
        raise _wrong("questions that training never sees", f"{shared[:3]} in pool train", "make the pools disjoint")
    return picked


def _kinds(chosen: Sequence[TaskRow], each: int) -> list[str]:
    """Return the kind of every unit, `each` of either: in turn within an arm, neighbouring arms beginning with different kinds.

    In turn over all units, an even number of arms would give some arms to one kind alone.
    """
    turn = {arm: place % 2 for place, arm in enumerate(sorted({task.arm for task in chosen}))}
    out: list[str] = []
    for task in chosen:
        kind = (POINT, PAIR)[turn[task.arm]]
        turn[task.arm] = 1 - turn[task.arm]
        full = out.count(kind) == each
        out.append({POINT: PAIR, PAIR: POINT}[kind] if full else kind)
    return out


def _answer(task: TaskRow) -> str:
    """Return the stored answer; `ContractError` unless the task's verifier accepts it."""
    answer = json.loads(task.reference).get("answer")
    if answer is None or not is_right(task, str(answer)):
        raise _wrong(
            f"a stored answer that '{task.verifier}' accepts", f"{answer!r} of {task.task_id}", "fix the generator"
        )
    return str(answer)


def _unit(
    task: TaskRow, kind: str, unit: str, shown: tuple[str, str], wording: str, generator: np.random.Generator, seed: int
) -> Iterator[TaskRow]:
    """Yield the two rows of a unit, the one whose first label is due first. One template serves both."""
    known = templates.FAMILIES[wording]
    family = str(generator.choice([f for f in (("P1", "P2") if kind == POINT else ("P3",)) if f in known]))
    template = int(generator.integers(len(known[family].templates)))
    for side, first in (("x", True), ("y", False)):
        one, two = shown if first else shown[::-1]
        parts = {"answer": one} if kind == POINT else {"answer_a": one, "answer_b": two}
        about = Origin(
            kind=kind,
            wording=wording,
            template=f"{family}/{template}",
            label=LABELS[kind][0 if first else 1],
            parent=task.task_id,
            group=unit,
            policy="",
            step=0,
            key=key_of(task.task_id, list(parts.values()), family),
        )
        prompt = templates.render(wording, family, template, question=question_of(task, wording), **parts)
        yield make(f"{unit}{side}", task, about, prompt, split=SPLIT, seed=seed)


def _wrong(expected: str, found: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where="dataset_prep.anchors", action=action)
