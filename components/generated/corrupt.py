"""Wrong answers that look like answers. Each is one small change of the right answer, and the task's own verifier rejects it.

For example 4237 becomes 4273 (two digits exchanged), 4137 (one digit replaced) or 4238 (one more).
"""

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
"""Takes an answer and returns a changed one, or None when the change does not apply to it."""


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

    Answers are drawn until one is plausible (`_plausible`) and the verifier rejects it. An implausible answer would be recognised
    without reading the question, and would not measure a judge. Raises `ContractError` when the verifier rejects no drawn answer.
    """
    ways = [change for change in _changes(task, right) if change(right, np.random.default_rng(0)) is not None]
    if others:
        ways.append(lambda _, rng: others[int(rng.integers(len(others)))])
    for _ in range(TRIES if ways else 0):
        changed = ways[int(generator.integers(len(ways)))](right, generator)
        if changed and _plausible(changed, right, others) and is_wrong(task, changed):
            return changed
    for other in others:
        if is_wrong(task, other):
            return other
    raise ContractError(
        expected=f"a wrong answer that verifier '{task.verifier}' rejects",
        found=f"none in {TRIES} changes of {right!r}",
        where=f"anchors of {task.task_id}",
        action="leave this arm out of the validation pools, or fix its verifier",
    )


def _changes(task: TaskRow, right: str) -> tuple[Change, ...]:
    """Return the changes that fit an answer.

    A number of at most two digits is changed by one, as in a mistake of counting. In a longer answer digits are exchanged or
    replaced, as in a mistake of writing. If the verifier reads a number, the longer answer can also be changed by one.
    """
    if _short(right):
        return (off_by_one,)
    return (swapped, replaced, off_by_one) if task.verifier == "number" else (swapped, replaced)


def _plausible(answer: str, right: str, others: Sequence[str]) -> bool:
    """Return whether `answer` looks like an answer to somebody who does not see the question.

    A number of at most two digits must be the answer to another task of the arm. For example, when an arm asks how many of 3
    digits are odd, nobody would believe 9. A longer whole number must keep its length and must not begin with a zero.
    """
    if _short(right):
        return answer in others
    if not (_INTEGER.fullmatch(right) and answer.lstrip("-").isdigit()):
        return True
    return len(answer) == len(right) and _INTEGER.fullmatch(answer) is not None


def _short(answer: str) -> bool:
    return _INTEGER.fullmatch(answer) is not None and len(answer.lstrip("-")) <= 2


def is_right(task: TaskRow, answer: str) -> bool:
    """Return whether the task's verifier scores `answer` with 1."""
    return _score(task, answer) == 1.0


def is_wrong(task: TaskRow, answer: str) -> bool:
    """Return whether the task's verifier scores `answer` with 0. An answer that the verifier cannot score is not rejected."""
    return _score(task, answer) == 0.0


def _score(task: TaskRow, answer: str) -> float | None:
    verdict = VERIFIERS[task.verifier](answer, json.loads(task.reference))
    return verdict.correct if isinstance(verdict, Score) else None
