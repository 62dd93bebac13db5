"""Verifiers: is an answer right? A verdict is `Score`, `Abstain` or `Failed`. A broken verifier never gives the number 0.

- An answer that is wrong, unreadable or hostile is the policy's fault, so it scores 0.
- A malformed reference, or an exception in a verifier, is not the policy's fault, so it is `Failed`.
- A task without a label (`answer` is null) is `Abstain`.

Matching follows SEC section 3. Countdown compares the multiset of integers, and the value within 1e-5. Zebra compares names and
ignores case and surrounding blanks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from instar.components.generated.item import style_of
from instar.components.reward.expression import ExpressionError, evaluate_tokens, integers, tokenise
from instar.components.reward.extract import extract
from instar.components.reward.labels import read_label
from instar.components.reward.signs import statement
from instar.errors import ContractError, nearest
from instar.rows import TaskRow

VERSION = 2
TOLERANCE = Fraction(1, 100_000)
_WHOLE = r"(?:[0-9]{1,40}|[0-9]{1,3}(?:,[0-9]{3}){1,12})"
_NUMBER = re.compile(rf"[+-]?(?:{_WHOLE}(?:\.[0-9]{{1,40}})?|\.[0-9]{{1,40}})(?:/[0-9]{{1,40}})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A verdict with a number. `correct` lies in [0, 1], and `components` holds further named parts. All numbers are finite.

    `reward` is what training pays, where that is not `correct` and a reward for the format.
    """

    correct: float
    format_ok: bool
    reward: float | None = None
    components: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that are not finite, and a value of `correct` outside [0, 1]."""
        if not (math.isfinite(self.correct) and 0.0 <= self.correct <= 1.0):
            raise ValueError(f"correct is {self.correct}")
        if self.reward is not None and not math.isfinite(self.reward):
            raise ValueError(f"reward is {self.reward}")
        if not all(math.isfinite(value) for value in self.components.values()):
            raise ValueError(f"components are {self.components}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Abstain:
    """The verifier has no opinion on this task."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The verifier broke, so the rollout has no score."""

    reason: str


Verdict = Score | Abstain | Failed
Reference = Mapping[str, Any]
Verifier = Callable[[str, Reference], Verdict]


def exact(answer: str, reference: Reference) -> Verdict:
    """Compare texts. The reference may set `casefold` (default false) and `strip` (default true)."""
    expected = reference["answer"]
    if expected is None:
        return Abstain(reason="the task has no label")
    pair = [answer, _text(expected)]
    if reference.get("strip", True):
        pair = [text.strip() for text in pair]
    if reference.get("casefold", False):
        pair = [text.casefold() for text in pair]
    return _judge(pair[0] == pair[1])


def label(answer: str, reference: Reference) -> Verdict:
    """Compare a class label with the expected one. An answer that is none of `labels` is wrong and badly formatted."""
    labels, expected = [_text(name) for name in reference["labels"]], _text(reference["answer"])
    if expected not in labels:
        raise ValueError(f"answer {expected!r} is none of {labels}")
    named = read_label(answer, labels)
    return Score(correct=float(named == expected), format_ok=named is not None)


def zebra(answer: str, reference: Reference) -> Verdict:
    """Compare a name, and ignore case and surrounding blanks."""
    return exact(answer, {"answer": reference["answer"], "casefold": True})


def arc1d(answer: str, reference: Reference) -> Verdict:
    """Compare rows of one-digit cells, and ignore blanks between cells."""
    expected = "".join(_text(reference["answer"]).split())
    return _judge("".join(answer.split()) == expected)


def number(answer: str, reference: Reference) -> Verdict:
    """Compare numbers exactly: integers (with or without thousands separators), decimals and fractions, but no powers of ten.

    `.5`, `5.` and `42.` are numbers, and an en dash is a minus (`signs.statement`). A text with a percent sign or a unit is not a
    number.
    """
    if reference["answer"] is None:
        return Abstain(reason="the task has no label")
    expected = _number(str(reference["answer"]))
    if expected is None:
        raise ValueError(f"answer {reference['answer']!r} is not a number")
    value = _number(answer)
    return _judge(value is not None and abs(value - expected) <= Fraction(str(reference.get("tolerance", 0))))


def countdown(answer: str, reference: Reference) -> Verdict:
    """Accept an expression whose value is the target, and which uses exactly the integers of the task, each as often as listed.

    Typographic operators are read as ASCII operators, and a closing full stop is ignored (`signs.statement`).
    """
    numbers, target = sorted(reference["numbers"]), Fraction(reference["target"])
    if not numbers or not all(type(n) is int for n in numbers):
        raise TypeError(f"numbers are {numbers}, not integers")
    try:
        tokens = tokenise(statement(answer))
        right = sorted(integers(tokens)) == numbers and abs(evaluate_tokens(tokens) - target) <= TOLERANCE
    except ExpressionError:
        right = False
    return _judge(right)


VERIFIERS: dict[str, Verifier] = {
    "exact": exact,
    "label": label,
    "zebra": zebra,
    "arc1d": arc1d,
    "number": number,
    "countdown": countdown,
}


def verify(task: TaskRow, text: str, style: str) -> Verdict:
    """Extract the answer of a completion and judge it. A generated task has the style of its wording, any other task has `style`.

    Raises `ContractError` for an unknown verifier and `ConfigError` for an unknown style. Everything else is a verdict.
    """
    if task.verifier not in VERIFIERS:
        raise ContractError(
            expected=f"one of the verifiers {', '.join(VERIFIERS)}",
            found=f"'{task.verifier}'",
            where=f"Tasks:verifier of {task.task_id}",
            action=nearest(task.verifier, VERIFIERS),
        )
    answer = extract(text, style_of(task, style))
    try:
        reference = json.loads(task.reference)
        verdict = VERIFIERS[task.verifier](answer or "", reference)
    except Exception as error:
        return Failed(reason=f"{type(error).__name__}: {error}")
    if isinstance(verdict, Score) and answer is None:
        return Score(correct=0.0, format_ok=False)
    return verdict


def chance(task: TaskRow) -> float:
    """Return the probability that a blind guess is right. It is 0 where answers cannot be guessed.

    Raises `ContractError` for a value outside [0, 1).
    """
    value = json.loads(task.reference).get("chance", 0.0)
    if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ContractError(
            expected="a value of chance in [0, 1)",
            found=f"{value!r}",
            where=f"Tasks:reference of {task.task_id}",
            action="correct the reference, or the generator that wrote it",
        )
    return float(value)


def _judge(right: bool) -> Score:
    return Score(correct=float(right), format_ok=True)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"answer is {type(value).__name__}, not text")
    return value


def _number(text: str) -> Fraction | None:
    """Return the exact value of a number, or None for a text that is not a number or divides by zero."""
    text = statement(text)
    if not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.replace(",", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / int(denominator or 1)
