"""Runs stages again from what a ledger recorded, in a new process with an empty cache, and compares the results with the ledger.

    ledger of the evolution ──► jobs of iteration K: stage, configuration, inputs by digest
    its store ──► inputs ──► a store in a temporary folder ──► the stage, in a new process ──► outputs ──► compared

The store of the evolution is only read. So a directory, or the URI of its ledger in a bucket, is all that is needed: a folder
of the user's code is not, because code is an artifact like any other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import contract
from instar.artifact import Artifact, Table
from instar.contract import Context, Inputs, Stage
from instar.errors import ConfigError, LedgerError, NoProgressError, nearest
from instar.ledger import Entry
from instar.limits import Limits
from instar.pipelines.evolution import Position, finish, positions
from instar.pipelines.gate import GateConfig
from instar.pipelines.ledger_runner import Job, LedgerRunner, job_of
from instar.pipelines.recipe import Recipe
from instar.pipelines.reuse import copy
from instar.pipelines.supervise import watchdog
from instar.plain import brief
from instar.status import changed
from instar.workspace import Workspace, create_workspace


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A stage that ran again. `differences` is empty if outputs and metrics are those of the ledger."""

    entry: Entry
    differences: tuple[str, ...]


class _End(Exception):
    """The ledger has no further results."""


class _Recorded(LedgerRunner):
    """Follows the loop through the ledger, and collects the jobs with their entries. It computes nothing."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self.jobs: list[tuple[Job, Entry]] = []

    def call(self, stage: Stage[Any, Any, Any], config: Any, *, iteration: int, **more: Any) -> Any:
        """Return the recorded outputs of a stage."""
        outs = super().call(stage, config, iteration=iteration, **more)
        job = _job(self.workspace.evolution, stage, config, iteration, more)
        entry = self.workspace.ledger.committed(job.key)
        assert entry is not None
        self.jobs.append((job, entry))
        return outs

    def produce(self, job: Job) -> Entry:
        """End, because the ledger ends here."""
        raise _End

    def gate(self, config: GateConfig, candidate: Position, before: Position | None) -> Position:
        """Return what followed from the recorded decision."""
        if not any(entry.body["iteration"] == candidate.iteration for entry in self.workspace.ledger.of("gate")):
            raise _End
        return super().gate(config, candidate, before)


def _job(evolution: str, stage: Stage[Any, Any, Any], config: Any, iteration: int, more: Mapping[str, Any]) -> Job:
    inputs: dict[str, Inputs] = {name: value for name, value in more.items() if name not in ("step", "shard")}
    step, shard = more.get("step") or 0, more.get("shard") or contract.WHOLE
    return job_of(evolution, stage, config, iteration, step, shard, inputs)


def recorded_jobs(workspace: Workspace, recipe: Recipe, iteration: int) -> list[tuple[Job, Entry]]:
    """Return the stage calls of an iteration with their entries, in the order of the ledger. Iteration 0 is the beginning."""
    runner = _Recorded(workspace)
    with contextlib.suppress(_End, NoProgressError):
        for position in positions(runner, recipe):
            if position.stopped or position.iteration == recipe.iterations:
                finish(runner, recipe, position)
            if position.iteration == iteration:
                break
    return [(job, entry) for job, entry in runner.jobs if job.iteration == iteration]


def rerun(workspace: Workspace, recipe: Recipe, iteration: int, stage: str, folder: Path) -> Iterator[Rerun]:
    """Run the stages of an iteration again, or only those of one name. Yield each when it has ended.

    `folder` is an empty folder for the temporary store.
    """
    for job, entry in chosen(workspace, recipe, iteration, stage):
        name = f"{entry.seq:06d}"
        fresh = create_workspace(folder / name, workspace.evolution)
        for artifact in job.inputs.values():
            copy(workspace.cas, fresh.cas, artifact.digest)
        ctx = Context(
            evolution=workspace.evolution,
            step=job.step,
            stage=job.stage.name,
            scratch=fresh.fresh_scratch("stage"),
            shard=job.shard,
        )
        done = watchdog.run_stage(job.stage, job.inputs, job.config, ctx, fresh, Limits(), recipe.threads)
        yield Rerun(entry=entry, differences=tuple(_differences(job, entry, done, workspace, fresh)))


def chosen(workspace: Workspace, recipe: Recipe, iteration: int, stage: str) -> list[tuple[Job, Entry]]:
    """Return the stage calls that shall run again. None is an error that says what there is."""
    jobs = recorded_jobs(workspace, recipe, iteration)
    entries = [entry for entry in workspace.ledger.of("stage") if entry.body["iteration"] == iteration]
    if not jobs and entries:
        raise LedgerError(
            expected=f"results of iteration {iteration} with the keys that this version gives them",
            found=f"other keys, of code {entries[0].body['code']}",
            where=workspace.ledger.prefix,
            action="check out that version, because this one has other settings or stages",
        )
    if not jobs:
        reached = max((entry.body["iteration"] for entry in workspace.ledger.of("stage")), default=0)
        raise LedgerError(
            expected=f"results of iteration {iteration}",
            found=f"a ledger that ends in iteration {reached}",
            where=workspace.ledger.prefix,
            action=f"choose -k from 0 to {reached}",
        )
    names = list(dict.fromkeys(job.stage.name for job, _ in jobs))
    if not stage or stage in names:
        return [(job, entry) for job, entry in jobs if stage in ("", job.stage.name)]
    action = nearest(stage, names)
    if "fused" in names:
        action = (
            "replay --stage fused: under the clock `fused` an iteration is one stage, and the policies between its steps "
            "are not stored"
        )
    raise ConfigError(
        expected=f"a stage of iteration {iteration}: {', '.join(names)}", found=stage, where="--stage", action=action
    )


def _differences(
    job: Job, entry: Entry, done: Mapping[str, Any], recorded: Workspace, fresh: Workspace
) -> Iterator[str]:
    kinds, before, now = contract.ports(job.stage.outs), entry.body["outputs"], done["outputs"]
    for name in kinds:
        one, two = before.get(name), now.get(name)
        if one == two:
            continue
        if one is None or two is None:
            yield f"{name}: {'nothing' if one is None else one} in the ledger, {'nothing' if two is None else two} now"
            continue
        kind = kinds[name][0]
        yield f"{name}: {first_difference(kind(recorded.cas.get(one), one), kind(fresh.cas.get(two), two))}"
    metrics = dict(entry.body["metrics"])
    for name in sorted({*metrics, *done["metrics"]}):
        if metrics.get(name) != done["metrics"].get(name):
            yield f"metric {name}: {metrics.get(name)} in the ledger, {done['metrics'].get(name)} now"


def first_difference(recorded: Artifact, now: Artifact) -> str:
    """Return where two artifacts of one class differ first: the row and the column of a table, or the file."""
    if isinstance(recorded, Table) and isinstance(now, Table):
        one, two = recorded.table(), now.table()
        for row, (left, right) in enumerate(zip(one.to_pylist(), two.to_pylist(), strict=False)):
            column = next((name for name in left if not _same(left[name], right[name])), None)
            if column is not None:
                return f"row {row}, column {column}: {brief(left[column])} in the ledger, {brief(right[column])} now"
        if len(one) != len(two):
            return f"{len(one)} rows in the ledger, {len(two)} now"
    files = sorted(
        {p.relative_to(a.path).as_posix() for a in (recorded, now) for p in a.path.rglob("*") if p.is_file()}
    )
    for name in files:
        left, right = (a.path / name for a in (recorded, now))
        if not (left.exists() and right.exists()):
            return f"file {name}: only {'in the ledger' if left.exists() else 'now'}"
        if left.read_bytes() != right.read_bytes():
            return f"file {name}{_within(left, right)}"
    return "the type or the metadata of the artifact"


def _same(left: Any, right: Any) -> bool:
    return bool(left == right or (left != left and right != right))


def _within(left: Path, right: Path) -> str:
    """Return where two JSON files differ first, or an empty text for other files."""
    if left.suffix != ".json":
        return ""
    paths = changed(json.loads(left.read_bytes()), json.loads(right.read_bytes()))
    return f", {paths[0]}" if paths else ""
