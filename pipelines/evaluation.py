"""The evaluation pipeline: is this policy better than that one? What CI asks before it promotes.

Both policies attempt the same held-out tasks under the same random numbers, and the paired difference decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instar.artifact import Artifact, Evaluation, Policy, Tasks
from instar.cas import Cas
from instar.components.catalog import DATASET_PREP, EVALUATE
from instar.components.dataset_prep.config import ImportedConfig, TextConfig
from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.components.evaluate.compare import EXIT_CODES
from instar.contract import Context
from instar.errors import ArtifactError, ConfigError, LedgerError
from instar.manifest import manifest_of
from instar.pipelines.brought import pinned
from instar.pipelines.contamination import unseen
from instar.pipelines.evaluation_page import Named, Page, markdown, table, worst
from instar.pipelines.execute import execute
from instar.pipelines.recipe import Recipe
from instar.seeds import seed
from instar.state import LIFETIMES, reads
from instar.status import status
from instar.store import open_store
from instar.store_files import write_whole
from instar.terminal import say
from instar.tracking_server import registered
from instar.workspace import open_workspace

__all__ = ["Page", "Side", "compare_policies", "pools", "registry_side", "side"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """A policy to compare. If it comes from an evolution, `tasks` are the task pools of that evolution, and `brought` is what its
    user brought, for example the code of a reward."""

    name: str
    policy: Policy
    tasks: Tasks | None
    suite: tuple[str, str] | None = None
    """Recipe and scale that the pools belong to. None means that they fit every recipe and scale."""
    brought: Mapping[str, Artifact] = field(default_factory=dict)

    def pools_of(self, recipe: Recipe) -> Tasks | None:
        """Return the pools if they belong to `recipe`, and None otherwise."""
        return self.tasks if self.suite in (None, (recipe.name, recipe.scale)) else None

    @property
    def named(self) -> Named:
        """Return the name and the digest for a page."""
        return Named(name=self.name, digest=self.policy.digest)


def compare_policies(
    candidate: Side, baseline: Side, recipe: Recipe, evolution: str, scratch: Path, page: Page | None = None
) -> int:
    """Print a Markdown table of both policies and return 0 (better or equal), 3 (worse) or 2 (could not tell).

    The verdict is the worst one of all splits. With `page`, the result is also written as a Markdown file.

    If both policies come from evolutions of the recipe, they attempt the tasks of the baseline's evolution. Tasks that the
    candidate was trained on are left out first. For a policy that is only a folder, this is not known and nothing is left out.
    """
    tasks = baseline.pools_of(recipe) or candidate.pools_of(recipe) or pools(recipe, evolution, scratch / "tasks")
    tasks, taught = unseen(tasks, candidate.tasks, recipe.test.splits, scratch / "unseen")
    brought = _brought(recipe, baseline, candidate)
    base = _evaluate(baseline, tasks, None, brought, recipe, evolution, scratch / "baseline")
    test = _evaluate(candidate, tasks, base, brought, recipe, evolution, scratch / "candidate")
    summaries = [e.read_json("summary.json") for e in (base, test)]
    say(table(baseline.name, candidate.name, summaries))
    if taught:
        say(f"left out: {taught} tasks that the candidate was trained on, or that were left alone in their arm\n")
    if page is not None:
        write_whole(page.path, markdown(candidate.named, baseline.named, recipe, summaries, page))
    alarms = summaries[1].get("alarms", [])
    say("".join(f"alarm: {alarm['reason']}\n" for alarm in alarms))
    code = EXIT_CODES[worst(summaries[1])]
    return (
        code if not alarms else max(code, EXIT_CODES["unknown"])
    )  # the gate holds under an alarm, so CI must not pass


def registry_side(uri: str, recipe: str, scratch: Path) -> Side:
    """Return the policy that the registry's alias `champion` points to. It is fetched from the store that the registry names."""
    digest, store = registered(uri, f"instar-{recipe}", "champion")
    policy = Policy(Cas(open_store(store), scratch / "cache").get(digest), digest)
    return Side(name=f"champion {digest[7:19]}", policy=policy, tasks=None)


def side(path: Path) -> Side:
    """Return the policy at `path`: the champion of an evolution directory, or a policy folder."""
    if (path / "evolution.json").exists():
        workspace = open_workspace(path)
        summary = status(workspace)
        digest = summary["champion"]
        prepared = (e for e in workspace.ledger.of("stage") if e.body["stage"] == "dataset_prep")
        tasks = next((e.body["outputs"]["tasks"] for e in prepared), "")
        if not digest or not tasks:
            raise LedgerError(
                expected="an evolution with tasks and a champion",
                found="a ledger that ends before its first gate",
                where=str(path),
                action="resume the evolution first",
            )
        policy = Policy(workspace.cas.get(digest), digest)
        task_pools, suite = Tasks(workspace.cas.get(tasks), tasks), (str(summary["recipe"]), str(summary["scale"]))
        brought = {name: type(a)(workspace.cas.get(a.digest), a.digest) for name, a in pinned(workspace.ledger).items()}
        return Side(name=str(path), policy=policy, tasks=task_pools, suite=suite, brought=brought)
    if not (path / "config.json").exists():
        raise ArtifactError(
            expected="an evolution directory or a policy folder with config.json",
            found="neither",
            where=str(path),
            action="check the path",
        )
    return Side(name=str(path), policy=Policy(path, manifest_of(path, "Policy").digest), tasks=None)


def pools(recipe: Recipe, evolution: str, folder: Path) -> Tasks:
    """Return the tasks that data preparation would make for this evolution.

    For text, only the tasks are made, without the initial policy. For continuous control the whole stage runs, because its
    initial policy costs nothing.
    """
    match recipe.dataset_prep:
        case TextConfig() as prep:
            from instar.components.dataset_prep.pools import build_tasks

            if isinstance(prep.pools, ImportedConfig):
                raise ConfigError(
                    expected="an evolution with its task pools, because the rows of this recipe were imported",
                    found="two policy folders",
                    where="the tasks to compare on",
                    action="name the directory of an evolution that has the rows as one of the two policies",
                )
            folder.mkdir()
            tasks = Tasks(folder)
            tasks.write(build_tasks(prep.pools, prep.anchors, lambda pool: seed(evolution, 0, "dataset_prep", pool)))
            tasks.digest = manifest_of(folder, "Tasks").digest
            return tasks
        case OfflineConfig() as prep:
            ctx = Context(evolution=evolution, step=0, stage=DATASET_PREP.name, scratch=folder)
            prepared: Tasks = execute(DATASET_PREP, {}, prep, ctx, folder).outs.tasks
            return prepared


def _brought(recipe: Recipe, *sides: Side) -> dict[str, Artifact]:
    """Return what the test of the recipe reads of what a user brought, from the first evolution that has all of it."""
    wanted = [name for name in reads(EVALUATE, recipe.test) if LIFETIMES[name] == "brought"]
    holder = next((side.brought for side in sides if set(wanted) <= side.brought.keys()), None)
    if holder is None:
        raise ConfigError(
            expected=f"an evolution that has {', '.join(wanted)}, because the test of this recipe reads it",
            found=" and ".join(side.name for side in sides),
            where="the policies to compare",
            action="name the directory of an evolution that has it as one of the two policies",
        )
    return {name: holder[name] for name in wanted}


def _evaluate(
    side: Side,
    tasks: Tasks,
    baseline: Evaluation | None,
    brought: Mapping[str, Artifact],
    recipe: Recipe,
    evolution: str,
    folder: Path,
) -> Evaluation:
    ctx = Context(evolution=evolution, step=0, stage=EVALUATE.name, scratch=folder)
    inputs = {"tasks": tasks, "policy": side.policy, "baseline": baseline, **brought}
    evaluation: Evaluation = execute(EVALUATE, inputs, recipe.test, ctx, folder).outs.evaluation
    return evaluation
