"""The evaluation pipeline: is this policy better than that one? What CI asks before it promotes.

Both policies answer the same held-out tasks under the same random numbers, and the paired difference decides.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.artifact import Evaluation, Policy, Tasks
from instar.cas import Cas
from instar.components.catalog import EVALUATE
from instar.components.evaluate.compare import EXIT_CODES
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


@dataclass(frozen=True, kw_only=True)
class Side:
    """A policy to compare, and the task pools of its evolution when it has one."""

    name: str
    policy: Policy
    tasks: Tasks | None


def compare_policies(candidate: Side, champion: Side, recipe: Recipe, evolution: str, scratch: Path) -> int:
    """Print a Markdown table of both policies and return 0 (better or equal), 3 (worse) or 2 (could not tell)."""
    tasks = champion.tasks or candidate.tasks or _pools(recipe, evolution, scratch / "tasks")
    base = _evaluate(champion, tasks, None, recipe, evolution, scratch / "champion")
    test = _evaluate(candidate, tasks, base, recipe, evolution, scratch / "candidate")
    summaries = [e.read_json("summary.json") for e in (base, test)]
    sys.stdout.write(_table(champion.name, candidate.name, summaries))
    verdicts = [split["comparison"]["verdict"] for split in summaries[1]["splits"].values()]
    worst = next(v for v in ("worse", "unknown", "equal", "better") if v in verdicts)
    return EXIT_CODES[worst]  # type: ignore[index]


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


def _table(champion: str, candidate: str, summaries: list[dict[str, Any]]) -> str:
    lines = [f"| split | {champion} | {candidate} | difference | verdict |", "|---|---|---|---|---|"]
    for split, found in summaries[1]["splits"].items():
        base, pair = summaries[0]["splits"][split], found["comparison"]
        gap = (
            "" if pair["difference"] is None else f"{pair['difference']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
        shown = [f"{s['accuracy']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (base, found)]
        lines.append(f"| {split} | {shown[0]} | {shown[1]} | {gap} | {pair['verdict']} |")
    return "\n".join(lines) + "\n"
