"""Anchors: judge tasks with known verdicts. They measure how well a policy judges (SPARK sections 6 and 7.6).

Anchors are made once, from validation tasks, and they show no rollout. So every policy of an evolution judges the same anchors.
When the score falls, the policy judges worse; the shown answers have not changed. The right answer of an anchor is the stored
reference. The wrong answer is a small change of it that the task's own verifier rejects.

A unit is one question asked twice. A unit of kind `judge-point` shows the right answer once and the wrong answer once. A unit of
kind `judge-pair` shows both answers in both orders. So each label is expected in exactly half of the rows of every unit.
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
    """How many anchors, and in which wording. The wording must be that of the generated tasks in training."""

    wording: templates.Wording = "words"
    questions: int = 64
    """Units of each kind, spread evenly over the arms that have validation tasks."""

    def __post_init__(self) -> None:
        if self.questions < 2:
            raise ConfigError(
                expected="at least 2",
                found=f"{self.questions}",
                where="dataset_prep.anchors.questions",
                action="take about 64; an interval of the balanced accuracy needs them",
            )


def build(rows: Sequence[TaskRow], config: AnchorConfig, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return the rows of `config.questions` units of each kind, two rows a unit.

    The units take the arms in turn, and in every arm the kinds alternate. So the first n units of a kind cover the arms evenly.
    `seed_of(name)` keys the choice of tasks, templates and wrong answers. Raises `ContractError` in four cases: there are too few
    validation tasks, a question is also in the training pool, a verifier rejects a stored answer, or no wrong answer can be made.
    """
    chosen = _questions(rows, 2 * config.questions, config.wording, seed_of)
    others = {arm: [_answer(r) for r in rows if r.split == "val" and r.arm == arm] for arm in {r.arm for r in chosen}}
    out: list[TaskRow] = []
    units = {POINT: 0, PAIR: 0}
    for task, kind in zip(chosen, _kinds(chosen, config.questions), strict=True):
        unit = f"{kind}/{SPLIT}/{units[kind]:05d}"
        units[kind] += 1
        seed = seed_of(unit) % (1 << 62)
        generator = rng("anchor", 0, kind, seed)
        right = _answer(task)
        wrong = wrong_answer(task, right, others[task.arm], generator)
        out += _unit(task, kind, unit, (right, wrong), config.wording, generator, seed)
    return out


def _questions(rows: Sequence[TaskRow], count: int, wording: str, seed_of: Callable[[str], int]) -> list[TaskRow]:
    """Return `count` validation tasks: one of each arm in turn, in random order inside an arm."""
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
    """Return the kind of every unit, with `each` units of both kinds.

    The kinds alternate inside every arm, and neighbouring arms begin with different kinds. If they alternated over all units, some
    arms could get one kind alone: with two arms, all units of the first would be of kind `judge-point`.
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
    """Return the stored answer. Raises `ContractError` when the task's verifier does not accept it."""
    answer = json.loads(task.reference).get("answer")
    if answer is None or not is_right(task, str(answer)):
        raise _wrong(
            f"a stored answer that verifier '{task.verifier}' accepts",
            f"{answer!r} of {task.task_id}",
            "correct the answer in the task's reference, or the verifier",
        )
    return str(answer)


def _unit(
    task: TaskRow, kind: str, unit: str, shown: tuple[str, str], wording: str, generator: np.random.Generator, seed: int
) -> Iterator[TaskRow]:
    """Yield the two rows of a unit. The row that expects the first label comes first. Both rows use the same template."""
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
