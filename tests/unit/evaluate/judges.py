"""Scripted solvers, judges and correctors over the toy tasks, and pools that hold anchors made from them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from instar import seeds
from instar.artifact import Tasks
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.generated.anchors import AnchorConfig, build

Reply = Callable[[str, int, float], str]
CONFIG = AnswerConfig(
    splits=("val",),
    samples=0,
    greedy=True,
    max_new_tokens=4,
    style="line",
    judge=JudgeConfig(wording="terse"),
    reflect=ReflectConfig(),
)
_PROMPT = re.compile(r"(\w+ (\d+)\?)(.*)")


def with_reflect(**changes: object) -> AnswerConfig:
    return dataclasses.replace(CONFIG, reflect=ReflectConfig(**changes))  # type: ignore[arg-type]


def scripted(
    solve: Callable[[int], str],
    judge: Callable[[int, str], str],
    fix: Callable[[int, str], str] = lambda number, answer: str(number),
    pair: Callable[[int, str, str], str] = lambda number, a, b: "a" if a == str(number) else "b",
) -> Reply:
    """Return replies to `<arm> <i>?`, whose right answer is `<i>`, and to the terse questions about answers to it."""

    def reply(prompt: str, seed: int, temperature: float) -> str:
        assert temperature == 0.0 and seed >= 0
        found = _PROMPT.fullmatch(prompt)
        assert found is not None, prompt
        number, rest = int(found[2]), found[3]
        if not rest:
            return solve(number)
        if rest.endswith("!"):
            return fix(number, rest[:-1])
        return pair(number, *rest[:-1].split("|")) if "|" in rest else judge(number, rest[:-1])

    return reply


def honest(number: int, answer: str) -> str:
    """A judge that knows."""
    return "y" if answer == str(number) else "n"


def with_anchors(tasks: Tasks, folder: Path, questions: int = 20) -> Tasks:
    """Return the tasks with anchors made from their validation pool; the toy training pool asks the same, so it is not shown."""
    folder.mkdir()
    rows = tasks.read()
    made = Tasks(folder, "sha256:anchored")
    config = AnchorConfig(wording="terse", questions=questions)
    made.write(
        [*rows, *build([r for r in rows if r.split != "train"], config, lambda n: seeds.seed("evo", 0, "prep", n))]
    )
    return made
