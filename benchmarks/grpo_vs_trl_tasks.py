"""What both sides of `grpo_vs_trl` train and are examined on: few-shot arithmetic, one line per answer.

Three levels: a+b of one digit, two digits plus one digit, a*b of one digit. A problem is the unordered pair, so that a+b
and b+a are one problem; those of the examination and of the solved lines are never trained on.
"""

from __future__ import annotations

import hashlib
import json
import random

from instar.rows import TaskRow

LEVELS: dict[str, tuple[range, range, str, int]] = {
    "add-1": (range(1, 10), range(1, 10), "+", 15),
    "add-2-1": (range(10, 100), range(1, 10), "+", 48),
    "mul-1": (range(1, 10), range(1, 10), "*", 15),
}
"""First and second operand, sign, number of problems that are kept for the examination."""
SHOTS: dict[str, tuple[tuple[int, int], ...]] = {
    "add-1": ((2, 3), (7, 1), (4, 8)),
    "add-2-1": ((31, 4), (57, 2), (18, 6)),
    "mul-1": ((2, 3), (7, 1), (4, 8)),
}
STOP = "\n"


def problems(level: str) -> list[tuple[int, int]]:
    """Return every problem of a level but the solved lines, larger operand first."""
    first, second, _, _ = LEVELS[level]
    shots = {tuple(sorted(pair)) for pair in SHOTS[level]}
    found = {(a, b) if a >= b else (b, a) for a in first for b in second}
    return sorted(pair for pair in found if tuple(sorted(pair)) not in shots)


def make(seed: int, steps: int, prompts: int) -> tuple[list[TaskRow], list[list[str]]]:
    """Return the rows (`train` and `ood`, the examination) and the task ids of each training step, each id once a step."""
    rng = random.Random(seed)
    rows: list[TaskRow] = []
    train: list[str] = []
    for level, (_, _, sign, kept) in LEVELS.items():
        pairs = problems(level)
        rng.shuffle(pairs)
        for number, (a, b) in enumerate(pairs):
            rows.append(_row(level, "ood" if number < kept else "train", (a, b), sign, number))
        train += [row.task_id for row in rows if row.arm == level and row.split == "train"]
    by_level = {level: [name for name in train if name.startswith(f"{level}/")] for level in LEVELS}
    drawn = []
    for _ in range(steps):
        chosen = [rng.choice(list(LEVELS)) for _ in range(prompts)]
        drawn.append([x for level in LEVELS for x in rng.sample(by_level[level], chosen.count(level))])
    return rows, drawn


def _row(level: str, split: str, pair: tuple[int, int], sign: str, number: int) -> TaskRow:
    lines = [f"{a} {sign} {b} = {_answer(a, b, sign)}\n" for a, b in SHOTS[level]]
    a, b = pair
    prompt = "".join(lines) + f"{a} {sign} {b} ="
    reference = json.dumps({"answer": str(_answer(a, b, sign))})
    return TaskRow(
        task_id=f"{level}/{split}/{number}",
        arm=level,
        domain="arithmetic",
        level=float(list(LEVELS).index(level)),
        split=split,
        prompt=prompt,
        verifier="number",
        reference=reference,
        features="{}",
        content_hash=hashlib.sha256((prompt + reference).encode()).hexdigest(),
        generator="grpo_vs_trl/1",
        seed=number,
    )


def _answer(a: int, b: int, sign: str) -> int:
    return a + b if sign == "+" else a * b
