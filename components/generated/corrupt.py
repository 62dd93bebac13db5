"""Wrong answers that look like answers: one small change of the right one, which the task's own verifier rejects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from instar.components.reward.verifiers import VERIFIERS, Score
from instar.errors import ContractError
from instar.rows import TaskRow

TRIES = 50
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
Change = Callable[[str, np.random.Generator], str | None]
"""Returns a changed answer, or None where the change does not apply."""


def swapped(answer: str, generator: np.random.Generator) -> str | None:
    """Exchange two neighbouring digits that differ."""
    places = [i for i, (a, b) in enumerate(pairwise(answer)) if (a + b).isdigit() and a != b]
    if not places:
        return None
    i = int(generator.choice(places))
    return answer[:i] + answer[i + 1] + answer[i] + answer[i + 2 :]


def replaced(answer: str, generator: np.random.Generator) -> str | None:
    """Put another digit in place of one."""
    places = [i for i, c in enumerate(answer) if c.isdigit()]
    if not places:
        return None
    i = int(generator.choice(places))
    digit = str((int(answer[i]) + int(generator.integers(1, 10))) % 10)
    return answer[:i] + digit + answer[i + 1 :]


def off_by_one(answer: str, generator: np.random.Generator) -> str | None:
    """Add or subtract one from a whole number."""
    if not _INTEGER.fullmatch(answer):
        return None
    return str(int(answer) + (1 if generator.random() < 0.5 else -1))


def wrong_answer(task: TaskRow, right: str, others: Sequence[str], generator: np.random.Generator) -> str:
    """Return a wrong answer to `task`: a small change of `right`, or one of `others`, the answers to tasks of the same arm.

    Which of the ways is drawn anew until the answer could pass for one (`_plausible`) and the verifier rejects it: what shows
    without the question measures no judge. Raises `ContractError` when the verifier rejects none.
    """
    ways = [change for change in _changes(task, right) if change(right, np.random.default_rng(0)) is not None]
    if others:
        ways.append(lambda _, rng: others[int(rng.integers(len(others)))])
    for _ in range(TRIES if ways else 0):
        found = ways[int(generator.integers(len(ways)))](right, generator)
        if found and _plausible(found, right, others) and is_wrong(task, found):
            return found
    for found in others:
        if is_wrong(task, found):
            return found
    raise ContractError(
        expected=f"a wrong answer that verifier '{task.verifier}' rejects",
        found=f"none in {TRIES} changes of {right!r}",
        where=f"anchors of {task.task_id}",
        action="leave this arm out of the validation pools, or fix its verifier",
    )


def _changes(task: TaskRow, right: str) -> tuple[Change, ...]:
    """A count or a small number is miscounted; a longer row of digits is miswritten, and miscalculated where it is a number."""
    if _short(right):
        return (off_by_one,)
    return (swapped, replaced, off_by_one) if task.verifier == "number" else (swapped, replaced)


def _plausible(found: str, right: str, others: Sequence[str]) -> bool:
    """Return whether `found` could be an answer for all that can be told without the question.

    A small number has to be the answer to some task of the arm: 9 odd digits among 3 would give itself away. A longer whole
    number keeps its length and has no zero in front.
    """
    if _short(right):
        return found in others
    if not (_INTEGER.fullmatch(right) and found.lstrip("-").isdigit()):
        return True
    return len(found) == len(right) and _INTEGER.fullmatch(found) is not None


def _short(answer: str) -> bool:
    return _INTEGER.fullmatch(answer) is not None and len(answer.lstrip("-")) <= 2


def is_right(task: TaskRow, answer: str) -> bool:
    """Return whether the task's verifier gives `answer` 1."""
    return _score(task, answer) == 1.0


def is_wrong(task: TaskRow, answer: str) -> bool:
    """Return whether the task's verifier gives `answer` 0. A verifier without an opinion rejects nothing."""
    return _score(task, answer) == 0.0


def _score(task: TaskRow, answer: str) -> float | None:
    verdict = VERIFIERS[task.verifier](answer, json.loads(task.reference))
    return verdict.correct if isinstance(verdict, Score) else None
