"""Answers for readers: answers of the first and of the last policy to the same validation tasks, side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from instar.artifact import Evaluation

SPLIT = "val"
PER_ARM = 2
CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer. `correct` is None when the verifier gave no verdict."""

    text: str
    correct: float | None
    num_tokens: int
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A task with the answers of the first and the last evaluated policy."""

    task_id: str
    arm: str
    prompt: str
    reference: str
    first: Answer
    last: Answer


def pick_samples(tasks: Any, first: Evaluation, last: Evaluation) -> list[Sample]:
    """Return up to two tasks per arm. Tasks whose verdict changed and tasks that are still wrong are preferred."""
    before, after = _answers(first), _answers(last)
    common = sorted(before.keys() & after.keys())
    by_arm: dict[str, list[str]] = {}
    for task_id in common:
        by_arm.setdefault(before[task_id][0], []).append(task_id)
    chosen = [t for ids in by_arm.values() for t in _choose(ids, before, after)]
    table = tasks.filter(pc.field("task_id").isin(chosen)).select(["task_id", "prompt", "reference"])
    texts = {row["task_id"]: row for row in table.to_pylist()}
    return [
        Sample(
            task_id=t,
            arm=before[t][0],
            prompt=texts[t]["prompt"][:CHARS],
            reference=_expected(texts[t]["reference"]),
            first=before[t][1],
            last=after[t][1],
        )
        for t in chosen
        if t in texts
    ]


def _answers(evaluation: Evaluation) -> dict[str, tuple[str, Answer]]:
    """Return task -> (arm, answer). The answer is the greedy one if there is one, otherwise sample 0."""
    answers: dict[str, tuple[str, Answer]] = {}
    table = evaluation.table().filter((pc.field("split") == SPLIT) & (pc.field("sample") >= -1))
    columns = ["task_id", "arm", "sample", "score", "length", "truncated", "answer"]
    for row in sorted(table.select(columns).to_pylist(), key=lambda r: r["sample"]):
        answer = Answer(
            text=row["answer"][:CHARS], correct=row["score"], num_tokens=row["length"], truncated=row["truncated"]
        )
        answers.setdefault(row["task_id"], (row["arm"], answer))
    return answers


def _choose(ids: list[str], before: dict[str, tuple[str, Answer]], after: dict[str, tuple[str, Answer]]) -> list[str]:
    def rank(task_id: str) -> tuple[int, str]:
        was, now = before[task_id][1].correct, after[task_id][1].correct
        if was != now:
            return (0 if (now or 0.0) > (was or 0.0) else 1), task_id
        return (2 if not now else 3), task_id

    ordered = sorted(ids, key=rank)
    first = ordered[:1]
    rest = sorted(ordered[1:], key=lambda t: (bool(after[t][1].correct), rank(t)))
    return first + rest[: PER_ARM - 1]


def _expected(reference: str) -> str:
    """Return the answer that a reference names, or the reference itself if it names none."""
    try:
        value = json.loads(reference)
    except ValueError:
        return reference[:CHARS]
    return str(value["answer"] if isinstance(value, dict) and "answer" in value else reference)[:CHARS]
