"""Worked examples of generated tasks for the warm start. They teach a new model the format of judging and correcting.

The examples use the training tasks of the warm start's own arms, which are the easiest arms. Right answers come from the
references. Wrong answers are small changes that the task's verifier rejects. No policy wrote any of them. The evolution itself
has to teach judging at harder levels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from instar.errors import ConfigError
from instar.rows import TaskRow
from instar.seeds import rng

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class GeneratedWarmStart:
    """How many examples of generated tasks there are per solved task. They have the wording `terse`. A number above 1 uses tasks
    more than once."""

    point: float = 1.0
    """Pointwise judge tasks per solved task. Right and wrong answers take turns."""
    pair: float = 1.0
    """Pairs per solved task. The right answer is first and second in turn."""
    reflect: float = 1.0
    """Corrections per solved task."""
    confirm_share: float = 0.25
    """Share of corrections that show a right answer. Their expected answer is the shown one."""
    labels: Literal["true", "random"] = "true"
    """`true` teaches the true verdicts. `random` draws every verdict by a coin, so the model learns only that an answer is one of
    the labels."""

    def __post_init__(self) -> None:
        """Refuse negative numbers, three zeros, and a share of confirmations outside of [0, 1]."""
        shares = (self.point, self.pair, self.reflect)
        if min(shares) < 0 or max(shares) == 0 or not 0.0 <= self.confirm_share <= 1.0:
            raise ConfigError(
                expected="shares >= 0, one of them > 0, confirm_share in [0, 1]",
                found=f"point {self.point}, pair {self.pair}, reflect {self.reflect}, confirm {self.confirm_share}",
                where="warm_start.generated",
                action="correct the shares, or set warm_start.generated to null",
            )


def examples(tasks: Sequence[TaskRow], config: GeneratedWarmStart, seed: int) -> list[tuple[str, str]]:
    """Return prompts with their answers, kind after kind. For n tasks there are about n * (point + pair + reflect).

    The numbers of true and false verdicts of a kind differ by one at most. Raises `ContractError` for an arm without wrong answers
    that its verifier rejects.
    """
    from instar.components.generated import templates
    from instar.components.generated.corrupt import wrong_answer

    generator = rng("warm_start", 0, "derived", seed)
    answers = [str(json.loads(task.reference)["answer"]) for task in tasks]
    others: dict[str, list[str]] = {}
    for task, answer in zip(tasks, answers, strict=True):
        others.setdefault(task.arm, []).append(answer)
    out = []
    for family, share in (("P1", config.point), ("P3", config.pair), ("P5", config.reflect)):
        for number, place in enumerate(_places(len(tasks), share, generator)):
            task, right = tasks[place], answers[place]
            wrong = wrong_answer(task, right, others[task.arm], generator)
            first = number % 2 == 0 if family != "P5" else generator.random() < config.confirm_share
            shown = {"answer": right if first else wrong}
            if family == "P3":
                shown = {"answer_a": right if first else wrong, "answer_b": wrong if first else right}
            said = first if config.labels == "true" else bool(generator.random() < 0.5)
            answer = right if family == "P5" else templates.verdict("terse", family, said)
            out.append((templates.render("terse", family, 0, question=task.prompt, **shown), answer))
    return out


def _places(count: int, share: float, generator: np.random.Generator) -> Iterator[int]:
    """Yield about `count * share` numbers below `count`: passes over all of them in random order. The last pass may be cut."""
    left = round(count * share)
    while left > 0:
        yield from generator.permutation(count)[:left].tolist()
        left -= count
