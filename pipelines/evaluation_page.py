"""The text of a comparison of two policies: the table that is printed, and the page for people.

The verdict comes from the splits of `evaluate.splits` alone. Policies for continuous control are also asked for other
returns than the usual one. The results of these probes are shown below the verdict and decide nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.components.evaluate.compare import Verdict
from instar.components.evaluate.config import AnswerConfig, Config
from instar.pipelines.recipe import Recipe

HEADINGS: dict[Verdict, str] = {"better": "better", "equal": "not worse", "worse": "worse", "unknown": "could not tell"}
WORDS: dict[Verdict, str] = {
    "better": "On every split the whole interval of the difference lies above zero.",
    "equal": "On every split a loss of more than {margin:g} is ruled out.",
    "worse": "The whole interval of the difference lies below zero on {splits}.",
    "unknown": "The {attempts} do not decide it on {splits}. Neither passes nor fails.",
}
"""What each verdict of `instar.components.evaluate.compare` says about the candidate."""

Summaries = Sequence[Mapping[str, Any]]
"""`summary.json` of the baseline and of the candidate."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The file that a comparison is written to, the seed that it used, and the command that repeats it."""

    path: Path
    seed: int
    command: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Named:
    """Name and digest of a policy, as the page shows them."""

    name: str
    digest: str


def worst(summary: Mapping[str, Any]) -> Verdict:
    """Return the worst verdict of all splits of the candidate's summary."""
    verdicts = [split["comparison"]["verdict"] for split in summary["splits"].values()]
    order: tuple[Verdict, ...] = ("worse", "unknown", "equal", "better")
    return next(v for v in order if v in verdicts)


def markdown(candidate: Named, baseline: Named, recipe: Recipe, summaries: Summaries, page: Page) -> str:
    """Return a page about a comparison.

    Names and the command may come from somebody else. They stay inside code spans, so that no part of them becomes a link or a
    mention.
    """
    splits, verdict = summaries[1]["splits"], worst(summaries[1])
    cause = [f"`{name}`" for name, split in splits.items() if split["comparison"]["verdict"] == verdict]
    words = WORDS[verdict].format(margin=recipe.test.margin, splits=", ".join(cause), attempts=_attempts(recipe.test))
    lines = [
        f"### `{recipe.name}`, scale `{recipe.scale}`: {HEADINGS[verdict]}",
        "",
        words,
        "",
        *table("baseline", "candidate", summaries).splitlines(),
        "",
        *_method(recipe.test, summaries),
        "",
        *[f"- `{name}`: {_plain(split['comparison']['reason'])}, {_pairs(split)}" for name, split in splits.items()],
        f"- candidate {_code(candidate.name)}, policy {_code(candidate.digest)}",
        f"- baseline {_code(baseline.name)}, policy {_code(baseline.digest)}",
        f"- suite `{recipe.name}`, scale `{recipe.scale}`, seed {page.seed}",
        "",
        "Once more:",
        "",
        f"    {' '.join(shlex.join(page.command).split())}",
    ]
    return "\n".join(lines) + "\n"


def table(baseline: str, candidate: str, summaries: Summaries) -> str:
    """Return a table with one row for each split: both scores, their difference and its verdict.

    Rows for the probes follow; they have no verdict. If the policies reflected on their answers, a second table shows the greedy
    score before and after reflection, the gain, and the number of calls.
    """
    lines = [f"| split | {baseline} | {candidate} | difference | verdict |", "|---|---|---|---|---|"]
    for split, scores in sorted(summaries[1]["splits"].items(), reverse=True):
        base, pair = summaries[0]["splits"][split], scores["comparison"]
        gap = (
            "" if pair["difference"] is None else f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
        lines.append(f"| {split} | {_score(base)} | {_score(scores)} | {gap} | {pair['verdict']} |")
    lines += [f"| {_cell(arm)} | {a} | {b} | | not judged |" for arm, a, b in _probes(summaries)]
    lines += _reflections(baseline, candidate, summaries)
    return "\n".join(lines) + "\n"


def _reflections(baseline: str, candidate: str, summaries: Summaries) -> list[str]:
    """Return the table of what reflection did to greedy answers; no lines if no policy reflected. It decides nothing."""
    lines = []
    for split in sorted(summaries[1]["splits"], reverse=True):
        for name, summary in ((baseline, summaries[0]), (candidate, summaries[1])):
            if reflected := summary["splits"][split].get("reflected"):
                gain = reflected["gain"]
                lines.append(
                    f"| {split} | {name} | {reflected['plain']:.3f} | {_score(reflected)} "
                    f"| {gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] | {reflected['calls_mean']:.2f} |"
                )
    head = ["", "| split | policy | greedy | with reflection | gain | calls |", "|---|---|---|---|---|---|"]
    return [*head, *lines] if lines else []


def _probes(summaries: Summaries) -> Iterator[tuple[str, str, str]]:
    """Yield (probe, baseline, candidate) for every probe that both policies ran."""
    base, test = (summary.get("probes", {}) for summary in summaries)
    for split in (name for name in test if name in base):
        before = base[split]["arms"]
        yield from ((arm, _score(before[arm]), _score(v)) for arm, v in test[split]["arms"].items() if arm in before)


def _score(result: Mapping[str, Any]) -> str:
    return f"{result['score']:.3f} [{result['low']:.3f}, {result['high']:.3f}]"


def _attempts(config: Config) -> str:
    return "answers" if isinstance(config, AnswerConfig) else "episodes"


def _method(config: Config, summaries: Summaries) -> list[str]:
    """Say what the numbers of the table are."""
    levels = f"{config.confidence:.0%} intervals"
    if isinstance(config, AnswerConfig):
        answers = f"{config.samples} sampled" if config.samples else "greedy"
        return [
            f"Macro accuracy over arms, {answers} answers per task; {levels} over tasks. "
            "Both policies answered the same tasks under the same random numbers."
        ]
    number = sum(arm["num_tasks"] for split in summaries[1]["splits"].values() for arm in split["arms"].values())
    out = [
        f"Normalised score, 0 as a random policy and 1 as the expert, over {number} episodes; {levels} over episodes. "
        "Both policies acted from the same start states and were asked for the same return."
    ]
    if any(_probes(summaries)):
        out += [
            "",
            "The last rows ask for other returns. They show whether a policy does as it is told and decide nothing.",
        ]
    return out


def _pairs(split: Mapping[str, Any]) -> str:
    pair = split["comparison"]
    return f"{pair['num_tasks']} common tasks, {pair['num_unpaired']} of one policy alone"


def _plain(text: str) -> str:
    """Return the text without characters that Markdown or HTML gives a meaning to."""
    return "".join(c if c.isalnum() or c in " .,;:+-=()[]/'" else " " for c in text)


def _cell(text: str) -> str:
    return _plain(text).replace("\n", " ")


def _code(text: str) -> str:
    """Return text as a code span on one line."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"
