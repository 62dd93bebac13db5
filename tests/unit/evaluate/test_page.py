"""The comparison that CI asks for: exit codes and page, from policies whose accuracy is known exactly."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from instar.artifact import Policy, Tasks
from instar.components.evaluate.config import Config
from instar.pipelines.evaluation import Page, Side, compare_policies
from instar.pipelines.recipes import build

COMMAND = ("instar", "evaluate", "runs/a b", "--against", "champion", "--suite", "sec")
RECIPE = dataclasses.replace(
    build("sec", "tiny"), test=Config(max_new_tokens=4, splits=("id", "ood"), style="line", bootstrap=500)
)
Reply = Callable[[str, int, float], str]


def knows(share: float) -> Reply:
    """Right on the first `share` of the 30 tasks of each arm."""

    def reply(prompt: str, seed: int, temperature: float) -> str:
        del seed, temperature
        answer = prompt.removesuffix("?").split()[1]
        return answer if int(answer) < round(30 * share) else "x"

    return reply


def mixed(prompt: str, seed: int, temperature: float) -> str:
    """Right on every second task."""
    return knows(1.0 if int(prompt.removesuffix("?").split()[1]) % 2 else 0.0)(prompt, seed, temperature)


Compare = Callable[..., tuple[int, str]]


@pytest.fixture
def compare(tmp_path: Path, tasks: Tasks, make_policy: Callable[[str, Reply], Policy]) -> Compare:
    def call(ours: Reply, theirs: Reply, name: str = "candidate folder") -> tuple[int, str]:
        candidate = Side(name=name, policy=make_policy("sha256:ca", ours), tasks=None)
        champion = Side(name="the champion", policy=make_policy("sha256:c0", theirs), tasks=tasks)
        page = Page(path=tmp_path / "page.md", seed=3, command=COMMAND)
        code = compare_policies(candidate, champion, RECIPE, "sec-tiny-seed3", tmp_path / "scratch", page)
        return code, page.path.read_text()

    return call


@pytest.mark.parametrize(
    ("ours", "theirs", "code", "heading", "words"),
    [
        (knows(0.9), knows(0.3), 0, "better", "above zero"),
        (knows(0.5), knows(0.5), 0, "not worse", "more than 0.02 is ruled out"),
        (knows(0.3), knows(0.9), 3, "worse", "below zero on `id`, `ood`"),
        (knows(0.5), mixed, 2, "could not tell", "do not decide it on `id`, `ood`"),
    ],
)
def test_exit_code_and_words_agree(
    compare: Compare, ours: Reply, theirs: Reply, code: int, heading: str, words: str
) -> None:
    found, page = compare(ours, theirs)
    assert found == code
    assert page.startswith(f"### `sec`, scale `tiny`: {heading}\n")
    assert words in page


def test_the_page_holds_what_is_needed_to_judge_and_to_repeat(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    _, page = compare(knows(0.9), knows(0.3))
    printed = capsys.readouterr().out.splitlines()
    for split in ("id", "ood"):
        row = next(line for line in page.splitlines() if line.startswith(f"| {split} |"))
        _, _, base, test, gap, verdict, _ = [cell.strip() for cell in row.split("|")]
        assert (base[:5], test[:5], verdict) == ("0.300", "0.900", "better")
        difference, low, high = map(float, re.findall(r"[+-]\d\.\d+", gap))
        assert difference == 0.6 and 0.0 < low < 0.6 < high
        assert row.split("|")[4:] == next(line for line in printed if line.startswith(f"| {split} |")).split("|")[4:]
        assert f"- `{split}`: the interval lies above 0" in page
    assert "95% intervals" in page and "60 common tasks, 0 of one policy alone" in page
    assert "policy `sha256:ca`" in page and "policy `sha256:c0`" in page
    assert "suite `sec`, scale `tiny`, seed 3" in page
    assert shlex.split(page.splitlines()[-1]) == list(COMMAND)


def test_a_hostile_name_stays_inside_its_code_span(compare: Compare) -> None:
    _, page = compare(knows(0.9), knows(0.3), name="x` @everyone | [click](http://evil)\n# owned `")
    (line,) = [line for line in page.splitlines() if "everyone" in line]
    assert "\n# owned" not in page
    assert line.count("`") == 4, "two spans: the name and the digest"
    assert line.index("`") < line.index("@everyone") < line.index("# owned") < line.index("`, policy")
