"""The comparison that CI asks for: exit codes and page, from policies whose accuracy is known exactly.

Of continuous-control recipes: the page from hand-made summaries, and the pools from data preparation itself.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Policy, Tasks
from instar.components.dataset_prep.offline.config import PendulumSource
from instar.components.evaluate.config import AnswerConfig
from instar.pipelines.evaluation import Page, Side, compare_policies, pools
from instar.pipelines.evaluation_page import Named, markdown, table, worst
from instar.pipelines.recipes import build

COMMAND = ("instar", "evaluate", "runs/a b", "--against", "champion", "--suite", "sec")
RECIPE = dataclasses.replace(
    build("sec", "tiny"), test=AnswerConfig(max_new_tokens=4, splits=("id", "ood"), style="line", margin=0.1)
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
        (knows(0.5), knows(0.5), 0, "not worse", "more than 0.1 is ruled out"),
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


def test_tasks_that_the_candidate_was_trained_on_are_left_out(
    tmp_path: Path, tasks: Tasks, make_policy: Callable[[str, Reply], Policy], capsys: pytest.CaptureFixture[str]
) -> None:
    """It learned tasks 0 to 9 of every arm by heart, which another seed tests; on the 20 others it is no better."""
    (tmp_path / "others").mkdir()
    others = Tasks(tmp_path / "others", "sha256:others")
    taught = [row for row in tasks.read() if row.split in ("id", "ood") and int(row.prompt[:-1].split()[1]) < 10]
    others.write([dataclasses.replace(row, task_id=f"train/{row.task_id}", split="train") for row in taught])
    candidate = Side(name="ours", policy=make_policy("sha256:ca", knows(1 / 3)), tasks=others)
    champion = Side(name="theirs", policy=make_policy("sha256:c0", knows(0.0)), tasks=tasks)
    assert compare_policies(candidate, champion, RECIPE, "sec-tiny-seed3", tmp_path / "scratch") == 0
    printed = capsys.readouterr().out
    assert f"left out: {len(taught)} tasks that the candidate was trained on" in printed and len(taught) == 40
    for split in ("id", "ood"):
        row = next(line for line in printed.splitlines() if line.startswith(f"| {split} |"))
        assert [cell.strip()[:5] for cell in row.split("|")[2:4]] == ["0.000", "0.000"]


def test_a_hostile_name_stays_inside_its_code_span(compare: Compare) -> None:
    _, page = compare(knows(0.9), knows(0.3), name="x` @everyone | [click](http://evil)\n# owned `")
    (line,) = [line for line in page.splitlines() if "everyone" in line]
    assert "\n# owned" not in page
    assert line.count("`") == 4, "two spans: the name and the digest"
    assert line.index("`") < line.index("@everyone") < line.index("# owned") < line.index("`, policy")


def control_summary(score: float, probe: float, verdict: str | None) -> dict[str, Any]:
    """Return a summary of 32 episodes at the target and 32 of a probe."""

    def arm(value: float) -> dict[str, Any]:
        return {"score": value, "low": value - 0.05, "high": value + 0.05, "num_tasks": 32}

    pair = {
        "verdict": verdict,
        "reason": "because",
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
        "num_tasks": 32,
        "num_unpaired": 0,
    }
    split = {**arm(score), "arms": {"target -150": arm(score)}, "comparison": pair if verdict else None}
    probes = {"score": probe, "arms": {"target -900": arm(probe)}}
    return {"measure": "normalised_score", "splits": {"id": split}, "probes": {"probe": probes}}


@pytest.mark.parametrize("verdict", ["better", "equal", "worse", "unknown"])
def test_a_control_page_speaks_of_episodes_and_judges_no_probe(tmp_path: Path, verdict: str) -> None:
    """The probe falls from 0.9 to 0.1, and the verdict is that of the split all the same."""
    recipe = build("decision_mamba", "tiny")
    summaries = [control_summary(0.6, 0.9, None), control_summary(0.7, 0.1, verdict)]
    page = Page(path=tmp_path / "page.md", seed=3, command=("instar", "evaluate"))
    text = markdown(Named(name="a", digest="sha256:a"), Named(name="b", digest="sha256:b"), recipe, summaries, page)
    assert worst(summaries[1]) == verdict
    assert f"| id | 0.600 [0.550, 0.650] | 0.700 [0.650, 0.750] | +0.100 [+0.050, +0.150] | {verdict} |" in text
    assert "| target -900 | 0.900 [0.850, 0.950] | 0.100 [0.050, 0.150] | | not judged |" in text
    assert "Normalised score, 0 as a random policy and 1 as the expert, over 32 episodes" in text
    assert not re.search(r"accuracy|answer", text)


def test_reflection_stands_beside_the_plain_scores() -> None:
    """A second table, of the policies that reflected; the verdicts are those of the plain scores."""
    summaries = [control_summary(0.6, 0.9, None), control_summary(0.7, 0.1, "better")]
    assert "reflection" not in table("a", "b", summaries)
    gain = {"difference": 0.05, "low": -0.01, "high": 0.11}
    reflected = {"plain": 0.5, "score": 0.55, "low": 0.5, "high": 0.6, "gain": gain, "calls_mean": 2.25}
    summaries[1]["splits"]["id"]["reflected"] = reflected
    lines = table("a", "b", summaries).splitlines()
    assert lines[-3] == "| split | policy | greedy | with reflection | gain | calls |"
    assert lines[-1] == "| id | b | 0.500 | 0.550 [0.500, 0.600] | +0.050 [-0.010, +0.110] | 2.25 |"
    assert [line for line in lines if "better" in line] == [
        "| id | 0.600 [0.550, 0.650] | 0.700 [0.650, 0.750] | +0.100 [+0.050, +0.150] | better |"
    ]


def test_control_pools_are_those_of_data_preparation(tmp_path: Path) -> None:
    """The same evolution name gives the same tasks, byte for byte; another seed gives other start states."""
    made = build("decision_mamba", "tiny")
    prep = dataclasses.replace(
        made.dataset_prep, source=PendulumSource(rates=(1.0,), episodes=2), val_episodes=2, test_episodes=3
    )
    recipe = dataclasses.replace(made, dataset_prep=prep)
    one, two, other = (pools(recipe, name, tmp_path / str(i)) for i, name in enumerate(("seed0", "seed0", "seed1")))
    assert one.digest == two.digest != other.digest
    splits = [row.split for row in one.iter()]
    assert (splits.count("val"), splits.count("id")) == (2, 3) and splits.count("train") == 40
