"""The evaluation pipeline: is this policy better than that one? What CI asks before it promotes.

Both policies answer the same held-out tasks under the same random numbers, and the paired difference decides.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.artifact import Evaluation, Policy, Tasks
from instar.cas import Cas
from instar.components.catalog import EVALUATE
from instar.components.evaluate.compare import EXIT_CODES, Verdict
from instar.contract import Context
from instar.errors import ArtifactError
from instar.manifest import manifest_of
from instar.pipelines.execute import execute
from instar.pipelines.recipe import Recipe
from instar.seeds import seed
from instar.status import status
from instar.store import open_store
from instar.tracking_server import registered
from instar.workspace import open_workspace

HEADINGS: dict[Verdict, str] = {"better": "better", "equal": "not worse", "worse": "worse", "unknown": "could not tell"}
WORDS: dict[Verdict, str] = {
    "better": "On every split the whole interval of the difference lies above zero.",
    "equal": "On every split a loss of more than {margin:g} is ruled out.",
    "worse": "The whole interval of the difference lies below zero on {splits}.",
    "unknown": "The answers do not decide it on {splits}. Neither passes nor fails.",
}
"""What each verdict of `instar.components.evaluate.compare` says about the candidate."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """A policy to compare, and the task pools of its evolution when it has one."""

    name: str
    policy: Policy
    tasks: Tasks | None


@dataclass(frozen=True, kw_only=True)
class Page:
    """Where a comparison is written as a page for people, the seed it used, and the command that repeats it."""

    path: Path
    seed: int
    command: tuple[str, ...]


def compare_policies(
    candidate: Side, champion: Side, recipe: Recipe, evolution: str, scratch: Path, page: Page | None = None
) -> int:
    """Print a Markdown table of both policies and return 0 (better or equal), 3 (worse) or 2 (could not tell).

    The verdict is the worst one of all splits. `page` also writes `markdown`.
    """
    tasks = champion.tasks or candidate.tasks or _pools(recipe, evolution, scratch / "tasks")
    base = _evaluate(champion, tasks, None, recipe, evolution, scratch / "champion")
    test = _evaluate(candidate, tasks, base, recipe, evolution, scratch / "candidate")
    summaries = [e.read_json("summary.json") for e in (base, test)]
    sys.stdout.write(_table(champion.name, candidate.name, summaries))
    if page is not None:
        page.path.write_text(markdown(candidate, champion, recipe, summaries, page))
    return EXIT_CODES[_worst(summaries[1])]


def markdown(
    candidate: Side, champion: Side, recipe: Recipe, summaries: Sequence[Mapping[str, Any]], page: Page
) -> str:
    """Return a page about a comparison. `summaries` are the `summary.json` of the champion and of the candidate.

    Names and the command may come from somebody else: they stay inside code spans, where nothing is a link or a mention.
    """
    found, settings = summaries[1]["splits"], recipe.test
    verdict = _worst(summaries[1])
    cause = [f"`{name}`" for name, split in found.items() if split["comparison"]["verdict"] == verdict]
    words = WORDS[verdict].format(margin=settings.margin, splits=", ".join(cause))
    answers = f"{settings.samples} sampled" if settings.samples else "greedy"
    lines = [
        f"### `{recipe.name}`, scale `{recipe.scale}`: {HEADINGS[verdict]}",
        "",
        words,
        "",
        *_table("champion", "candidate", summaries).splitlines(),
        "",
        f"Macro accuracy over arms, {answers} answers per task; {settings.confidence:.0%} intervals over tasks "
        f"({settings.bootstrap} resamples). Both policies answered the same tasks under the same random numbers.",
        "",
        *[f"- `{name}`: {_plain(split['comparison']['reason'])}, {_pairs(split)}" for name, split in found.items()],
        f"- candidate {_code(candidate.name)}, policy {_code(candidate.policy.digest)}",
        f"- champion {_code(champion.name)}, policy {_code(champion.policy.digest)}",
        f"- suite `{recipe.name}`, scale `{recipe.scale}`, seed {page.seed}",
        "",
        "Once more:",
        "",
        f"    {' '.join(shlex.join(page.command).split())}",
    ]
    return "\n".join(lines) + "\n"


def _worst(summary: Mapping[str, Any]) -> Verdict:
    verdicts = [split["comparison"]["verdict"] for split in summary["splits"].values()]
    order: tuple[Verdict, ...] = ("worse", "unknown", "equal", "better")
    return next(v for v in order if v in verdicts)


def _pairs(split: Mapping[str, Any]) -> str:
    pair = split["comparison"]
    return f"{pair['num_tasks']} common tasks, {pair['num_unpaired']} of one policy alone"


def _plain(text: str) -> str:
    """Return text without what Markdown or HTML would act on."""
    return "".join(c if c.isalnum() or c in " .,;:+-=()[]/'" else " " for c in text)


def _code(text: str) -> str:
    """Return text as a code span on one line."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def registry_side(uri: str, recipe: str, scratch: Path) -> Side:
    """Return the policy that the registry's alias `champion` points to, fetched from the store it names."""
    digest, store = registered(uri, f"instar-{recipe}", "champion")
    policy = Policy(Cas(open_store(store), scratch / "cache").get(digest), digest)
    return Side(name=f"champion {digest[7:19]}", policy=policy, tasks=None)


def side(path: Path) -> Side:
    """Return the policy at `path`: the champion of an evolution directory, or a policy folder."""
    if (path / "evolution.json").exists():
        workspace = open_workspace(path)
        digest = status(workspace)["champion"]
        prepared = next(e for e in workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep")
        tasks = prepared.body["outputs"]["tasks"]
        policy = Policy(workspace.cas.get(digest), digest)
        return Side(name=str(path), policy=policy, tasks=Tasks(workspace.cas.get(tasks), tasks))
    if not (path / "config.json").exists():
        raise ArtifactError(
            expected="an evolution directory or a policy folder with config.json",
            found="neither",
            where=str(path),
            action="check the path",
        )
    return Side(name=str(path), policy=Policy(path, manifest_of(path, "Policy").digest), tasks=None)


def _pools(recipe: Recipe, evolution: str, folder: Path) -> Tasks:
    from instar.components.dataset_prep.pools import build_pools

    folder.mkdir()
    tasks = Tasks(folder)
    tasks.write(build_pools(recipe.dataset_prep.pools, lambda pool: seed(evolution, 0, "dataset_prep", pool)))
    tasks.digest = manifest_of(folder, "Tasks").digest
    return tasks


def _evaluate(
    side: Side, tasks: Tasks, champion: Evaluation | None, recipe: Recipe, evolution: str, folder: Path
) -> Evaluation:
    ctx = Context(evolution=evolution, step=0, stage=EVALUATE.name, scratch=folder)
    inputs = {"tasks": tasks, "policy": side.policy, "champion": champion}
    made: Evaluation = execute(EVALUATE, inputs, recipe.test, ctx, folder).outs.evaluation
    return made


def _table(champion: str, candidate: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| split | {champion} | {candidate} | difference | verdict |", "|---|---|---|---|---|"]
    for split, found in summaries[1]["splits"].items():
        base, pair = summaries[0]["splits"][split], found["comparison"]
        gap = (
            "" if pair["difference"] is None else f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
        shown = [f"{s['accuracy']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (base, found)]
        lines.append(f"| {split} | {shown[0]} | {shown[1]} | {gap} | {pair['verdict']} |")
    return "\n".join(lines) + "\n"
