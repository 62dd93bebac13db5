"""Worked examples of judging and correcting for the warm start, so that a new model knows the format of generated tasks.

They are made of the training tasks of the warm start's own arms, the easiest ones. Right answers come from the references, wrong
ones from a small change that the task's verifier rejects; no policy has written any of them. What is right at harder levels is
left to the evolution.
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
    """Examples of generated tasks per solved task, in the wording `terse`. A share above 1 shows every task more than once."""

    point: float = 1.0
    """Pointwise verdicts per solved task; right and wrong answers in turn."""
    pair: float = 1.0
    """Pairs per solved task; the right answer first and second in turn."""
    reflect: float = 1.0
    """Corrections per solved task."""
    confirm_share: float = 0.25
    """Share of corrections that show a right answer, which is to be kept."""
    labels: Literal["true", "random"] = "true"
    """`random` teaches that a verdict is one of the labels, and nothing about which: verdicts are coin tosses."""

    def __post_init__(self) -> None:
        """Refuse negative shares, none at all, and a share of confirmations outside [0, 1]."""
        shares = (self.point, self.pair, self.reflect)
        if min(shares) < 0 or max(shares) == 0 or not 0.0 <= self.confirm_share <= 1.0:
            raise ConfigError(
                expected="shares >= 0, one of them > 0, confirm_share in [0, 1]",
                found=f"point {self.point}, pair {self.pair}, reflect {self.reflect}, confirm {self.confirm_share}",
                where="warm_start.generated",
                action="correct the shares, or set warm_start.generated to null",
            )


def examples(tasks: Sequence[TaskRow], config: GeneratedWarmStart, seed: int) -> list[tuple[str, str]]:
    """Return prompts with their answers: for n tasks about n * (point + pair + reflect) of them, kind after kind.

    Verdicts of a kind are even to within one. Raises `ContractError` for an arm whose answers cannot be made wrong.
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
    """Yield about `count * share` places below `count`: whole passes in random order, the last one cut."""
    left = round(count * share)
    while left > 0:
        yield from generator.permutation(count)[:left].tolist()
        left -= count
