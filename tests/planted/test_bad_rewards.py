"""Rewards that would teach something else than the task are noticed before training, and good ones pass without a word.

Each file in rewards/bad says in its first line what is wrong with it. The rows are sums of two numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Code
from instar.bundle import bundle
from instar.components.reward.check_functions import check_functions
from instar.components.reward.findings import Finding, require_sound
from instar.components.reward.functions import FunctionConfig
from instar.components.reward.probes import Sample
from instar.components.sandbox.config import SandboxConfig
from instar.errors import RewardError
from instar.manifest import manifest_of

REWARDS = Path(__file__).parent / "rewards"
NOTICED = {
    "always_one": ("floors", "correct 0 for an empty answer"),
    "always_zero": ("references", "correct 1 for the reference answer"),
    "any_number": ("floors", "a list of answers"),
    "backtracking": ("failures", "a finite number"),
    "batch_mean": ("repeatable", "one at a time"),
    "close_enough": ("constants", "one answer for all tasks"),
    "contained_in_reference": ("floors", "an empty answer, an answer of blanks"),
    "contains_reference": ("floors", "a list of answers"),
    "copies_prompt": ("floors", "the prompt itself"),
    "evaluates": ("source", "a text that is run as code"),
    "first_come": ("repeatable", "a second time"),
    "first_letter": ("constants", "one answer for all tasks"),
    "inverted": ("references", "correct 1 for the reference answer"),
    "length_bonus": ("payments", "20,000 characters"),
    "nan_when_unsure": ("failures", "a finite number"),
    "night_bonus": ("source", "the clock"),
    "no_opinion": ("references", "a verdict for the reference answer"),
    "percent": ("failures", "a finite number"),
    "raises": ("failures", "a finite number"),
    "random_noise": ("references", "correct 1 for the reference answer"),
}
"""Bad reward -> the check that is red, and words of what it expects."""
QUESTIONED = {"counts_in_a_file": "does not depend on a file", "salted_hash": "does not depend on hash() of a value"}
"""Bad reward that the sandbox makes repeatable, because it empties folders and fixes hashes -> what the yellow finding expects."""


def sums(count: int = 60) -> list[Sample]:
    rows = []
    for number in range(count):
        a, b = 3 + number % 17, 5 + number * 7 % 23
        task_id, reference = f"add/train/{number:05d}", {"answer": str(a + b)}
        place = f"sums.jsonl:line {number + 1}"
        rows.append(
            Sample(task_id=task_id, place=place, prompt=f"What is {a} + {b}?", reference=reference, task={"arm": "add"})
        )
    return rows


def checked(path: Path, folder: Path, rows: list[Sample] | None = None, **limits: float) -> list[Finding]:
    (entry,) = bundle([f"{path}:reward"], folder / "code")
    code = Code(folder / "code", manifest_of(folder / "code", "Code").digest)
    config: dict[str, Any] = {"call_s": 2.0, "cpu_s": 2.0, **limits}
    report = check_functions([FunctionConfig(entry=entry)], code, SandboxConfig(**config), rows or sums(), "whole")
    findings = [Finding(**finding) for finding in report["findings"]]
    assert report["success"] == (not any(finding.severity == "red" for finding in findings))
    return findings


@pytest.mark.parametrize("name", NOTICED)
def test_a_bad_reward_is_noticed(name: str, tmp_path: Path) -> None:
    check, words = NOTICED[name]
    red = [f for f in checked(REWARDS / f"bad/{name}.py", tmp_path) if f.severity == "red"]
    matching = [finding for finding in red if finding.check == check and words in finding.expected]
    assert matching, [(finding.check, finding.expected, finding.found) for finding in red]
    assert matching[0].where.startswith(f"{name}.py:" if check == "source" else ("add/train/", "48 rows"))


@pytest.mark.parametrize("name", QUESTIONED)
def test_what_the_sandbox_makes_harmless_is_questioned(name: str, tmp_path: Path) -> None:
    (finding,) = checked(REWARDS / f"bad/{name}.py", tmp_path)
    assert (finding.severity, finding.check) == ("yellow", "source") and QUESTIONED[name] in finding.expected


def test_every_bad_reward_has_its_check_and_says_what_is_wrong() -> None:
    files = {path.stem: path.read_text() for path in (REWARDS / "bad").glob("*.py")}
    assert files.keys() == {*NOTICED, *QUESTIONED} and len(NOTICED) >= 15
    assert all(text.startswith('"""Wrong: ') for text in files.values())


@pytest.mark.parametrize("path", sorted((REWARDS / "good").glob("*.py")), ids=lambda path: path.stem)
def test_a_good_reward_passes_without_a_word(path: Path, tmp_path: Path) -> None:
    assert checked(path, tmp_path) == []


def with_prompts(form: str) -> list[Sample]:
    return [
        Sample(
            task_id=row.task_id,
            place=row.place,
            prompt=form.format(prompt=row.prompt, answer=row.answer),
            reference=row.reference,
            task=row.task,
        )
        for row in sums()
    ]


@pytest.mark.parametrize(
    ("form", "severity"),
    [
        ("{prompt}\nAnswer: {answer}", "red"),
        ("{prompt} #### {answer}", "red"),
        ("{prompt} The answer is {answer}.", "red"),
        ("{prompt} Answer with a number.", ""),
    ],
)
def test_a_prompt_that_tells_its_answer_is_noticed(form: str, severity: str, tmp_path: Path) -> None:
    findings = checked(REWARDS / "good/exact.py", tmp_path, with_prompts(form))
    assert [finding.severity for finding in findings if finding.check == "leaks"] == ([severity] if severity else [])


def test_a_row_that_is_wrong_is_named(tmp_path: Path) -> None:
    rows = sums(12)
    rows[7] = Sample(
        task_id=rows[7].task_id, place=rows[7].place, prompt=rows[7].prompt, reference={"answer": "12 "}, task={}
    )
    (finding,) = [f for f in checked(REWARDS / "good/exact.py", tmp_path, rows) if f.severity == "red"]
    assert finding.where == "add/train/00007, sums.jsonl:line 8" and (finding.rows, finding.of) == (1, 12)
    assert "'12 '" in finding.expected and finding.found == "correct 0"


def test_a_run_refuses_a_red_reward_unless_it_is_told() -> None:
    fields = {
        "expected": "correct 0 for the prompt itself",
        "found": "correct 1",
        "where": "row 3",
        "action": "compare",
    }
    red, yellow = ({"check": "floors", "severity": severity, **fields} for severity in ("red", "yellow"))
    scorer = "rew.py:reward sha256:12"
    assert require_sound({"findings": [yellow], "scorer": scorer}, accept=False) == {"red": [], "accepted": False}
    both = {"findings": [red, yellow], "scorer": scorer}
    assert require_sound(both, accept=True) == {"red": ["floors"], "accepted": True}
    with pytest.raises(RewardError, match=r"rew\.py:reward sha256:12, row 3.*--accept-check"):
        require_sound(both, accept=False)
