"""The examples of docs/howto/reward.md score what the page says, in a sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from instar.components.reward.functions import Attempt, FunctionConfig, Functions
from instar.components.reward.verifiers import Score
from instar.resident import Resident
from support.brought import SHORT, brought

PAGE = Path(__file__).parents[3] / "docs/howto/reward.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.S))
ROW = {"answer": "3", "topic": "sums"}


class Handle:
    """A policy for the example."""

    digest = "d" * 64

    def logprobs(self, prompt: str, completion: str, *, form: str = "text") -> list[float]:
        return [-1.0, -2.0] if (prompt, completion, form) == ("2+1=", "3.", "text") else [-9.0]

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 128, temperature: float = 1.0, form: str = "text"
    ) -> list[str]:
        return ["4"] * len(prompts)


def option(text: str) -> FunctionConfig:
    """Return what the page writes behind `--reward`, for example `two.py:style=0.2` or `foreign.py:compute_score[-1,1]`."""
    match = re.fullmatch(r"(.*?)(?:\[(.*),(.*)\])?(?:=(.*))?", text)
    assert match is not None
    entry, low, high, weight = match.groups()
    return FunctionConfig(entry=entry, low=float(low or 0), high=float(high or 1), weight=float(weight or 1))


def rewards(tmp_path: Path, *entries: str) -> list[tuple[float | None, float | None]]:
    """Return correctness and reward of the right answer 3 and the wrong answer 4."""
    file = entries[0].partition(":")[0]
    code = brought(tmp_path, EXAMPLES[file], file)
    configs = [option(entry) for entry in entries]
    attempts = [Attempt(answer=a, completion=f"{a}.", prompt="2+1=", reference=ROW) for a in ("3", "4")]
    verdicts = Functions(configs, code, SHORT, Resident()).score(attempts, Handle())
    assert all(isinstance(verdict, Score) for verdict in verdicts), verdicts
    return [(verdict.correct, verdict.reward) for verdict in verdicts if isinstance(verdict, Score)]


CASES = {
    ("rew.py:reward",): [(1.0, 1.0), (0.0, 0.0)],
    ("parts.py:reward",): [(1.0, 1.1), (0.0, 0.1)],
    ("two.py:reward", "two.py:style=0.2"): [(1.0, 1.2), (0.0, 0.2)],
    ("foreign.py:compute_score[-1,1]", "foreign.py:think_format=0.5"): [(1.0, 1.0), (0.0, -1.0)],
    ("judge.py:reward",): [(1.0, 1.0), (0.0, 0.0)],
    ("surprise.py:reward",): [(1.0, -1.5), (1.0, -9.0)],
}


@pytest.mark.parametrize("entries", CASES, ids=lambda entries: " ".join(entries))
def test_an_example_scores_what_the_page_says(tmp_path: Path, entries: tuple[str, ...]) -> None:
    assert rewards(tmp_path, *entries) == CASES[entries]


def test_every_example_of_the_page_is_scored() -> None:
    assert {entry.partition(":")[0] for entries in CASES for entry in entries} == set(EXAMPLES)
