"""Answers whose verdict is known before a reward is asked: the reference is right, and all others are wrong.

reference          right                      every answer       all answers of the rows in a list
empty, blanks, nan wrong, they say nothing    two answers        the reference `or` another answer
echo               the prompt, repeated       other              another row's answer
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar.components.reward.extract import extract
from instar.components.reward.signatures import Attempt

TRIVIAL = {
    "empty": "an empty answer",
    "blanks": "an answer of blanks",
    "nan": "the answer `nan`",
    "none": "the answer `None`",
    "brackets": "an answer of brackets",
    "nonsense": "an answer of other scripts and control characters",
}
"""Kind of an answer that says nothing -> its words."""
SOFT = {
    "echo": "the prompt itself",
    "other": "the answer of another row",
    "long": "20,000 characters of other answers",
    "every answer": "a list of answers with the right one in the middle",
}
"""Kind of an answer that is wrong, though a part of it may be right -> its words."""
_TEXTS = {
    "empty": "",
    "blanks": " \n\t ",
    "nan": "nan",
    "none": "None",
    "brackets": "{[(\\",
    "nonsense": "\u0663\u4e09\x01\U0001f600 1e999",
}
COMMON = ("0", "1", "yes", "no", "A", "true", "I don't know")
LONG = 20_000
_TOLD = r"(?:answer|solution|label|result|####)\W{0,4}(?:is|=|:)?\W{0,4}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row: its task id, its place in the user's file, its prompt and its reference."""

    task_id: str
    place: str
    prompt: str
    reference: dict[str, Any]
    task: dict[str, Any]

    @property
    def answer(self) -> str | None:
        """The reference answer as a text, or None if the row has none."""
        value = self.reference.get("answer")
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None

    @property
    def where(self) -> str:
        """Where the row is found."""
        return f"{self.task_id}, {self.place}"

    def contains(self, text: str) -> bool:
        """Return whether the prompt has a text as whole words."""
        return (
            bool(text.strip()) and re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", self.prompt, re.I) is not None
        )

    def tells_answer(self) -> bool:
        """Return whether the prompt ends with its answer behind a word such as `answer:`."""
        answer = re.escape((self.answer or "").strip())
        return re.search(rf"{_TOLD}{answer}\W*\Z", self.prompt, re.I) is not None


def attempt(sample: Sample, answer: str, style: str) -> Attempt:
    """Return the attempt of a policy that gives this answer in the form that the style asks for."""
    forms = {"boxed": f"\\boxed{{{answer}}}", "tag": f"<answer>{answer}</answer>"}
    completion = forms.get(style, answer)
    return Attempt(
        answer=extract(completion, style),
        completion=completion,
        prompt=sample.prompt,
        reference=sample.reference,
        task=sample.task,
    )


def probes(samples: Sequence[Sample]) -> dict[str, list[str | None]]:
    """Return kind -> one answer for every sample. None where the kind says nothing: for example, where nothing is the answer."""
    others = [_other(samples, index) for index in range(len(samples))]
    known = list(dict.fromkeys(sample.answer.strip() for sample in samples if sample.answer))
    out: dict[str, list[str | None]] = {kind: [] for kind in ("reference", "reference with blanks", *TRIVIAL, *SOFT)}
    for sample, other in zip(samples, others, strict=True):
        answer = sample.answer
        out["reference"].append(answer)
        out["reference with blanks"].append(None if answer is None else f" {answer}\n")
        for kind, text in _TEXTS.items():
            out[kind].append(None if answer is not None and same(answer, text) else text)
        out["echo"].append(None if same(answer, sample.prompt) else sample.prompt)
        out["other"].append(other)
        out["long"].append(None if other is None else (f"{other} " * (LONG // (len(other) + 1)))[:LONG])
        out["every answer"].append(None if other is None else _listed(answer or "", known))
    return out


def _listed(answer: str, known: Sequence[str]) -> str:
    """Return a list of up to 20 answers with this one in the middle: neither the first nor the last answer is right."""
    others = [other for other in known if not same(other, answer)][:20]
    before, after = (others[: len(others) // 2], others[len(others) // 2 :]) if len(others) > 1 else (others, others)
    return ", ".join([*before, answer.strip(), *after])


def _other(samples: Sequence[Sample], index: int) -> str | None:
    """Return the next answer that differs from that of the sample."""
    answer = samples[index].answer
    for step in range(1, len(samples)):
        other = samples[(index + step) % len(samples)].answer
        if other and answer is not None and not same(answer, other):
            return other
    return None


def constants(samples: Sequence[Sample]) -> list[str]:
    """Return answers that a policy could give to every task: the most common references, and a few words."""
    common = Counter((sample.answer or "").strip() for sample in samples)
    return list(dict.fromkeys([*(answer for answer, _ in common.most_common(6) if answer), *COMMON]))


def same(one: str | None, two: str | None) -> bool:
    """Return whether two answers are the same text, apart from case and blanks around it."""
    return (one or "").strip().casefold() == (two or "").strip().casefold()
