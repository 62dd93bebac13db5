"""Replays the loop over recorded results. So a run on a cluster finds its position, and the ledger gets its entries.

The container of a stage leaves a record of its result and writes nothing to the ledger. The control nodes execute the same
description of the loop as every runner. They take each result from the ledger. When they commit, they also take results from the
records and append them to the ledger. So the entries, their order and the decisions of the gate are those of a run in one process.
"""

from __future__ import annotations

from collections.abc import Mapping

from instar import contract
from instar.errors import ArtifactError, LedgerError
from instar.ledger import Entry
from instar.pipelines.evolution import Outcome, Position, finish, positions
from instar.pipelines.ledger_runner import Job, LedgerRunner
from instar.pipelines.lifecycle import check_code, close, stored_recipe
from instar.pipelines.recipe import Recipe
from instar.records import Records
from instar.workspace import Workspace


class Replay(LedgerRunner):
    """Takes results from the ledger. With `commit`, it appends results that are recorded but not yet in the ledger."""

    def __init__(self, workspace: Workspace, *, commit: bool) -> None:
        super().__init__(workspace)
        self.commit, self.records = commit, Records(workspace.store, workspace.evolution)
        workspace.ledger.adopt = commit

    def produce(self, job: Job) -> Entry:
        """Append the recorded result of a job.

        Raises `LedgerError` if there is no record, or if it does not have the outputs of the job's stage. Raises `ArtifactError` if
        an output is missing in the store. Then nothing is appended.
        """
        record = self.records.get(job.key) if self.commit else None
        if record is None:
            raise LedgerError(
                expected=f"a result of {job.stage.name} in iteration {job.iteration}, step {job.step}",
                found="none in the records" if self.commit else "none in the ledger",
                where=f"{self.workspace.ledger.prefix}, memo key {job.key[:16]}",
                action="run the segment again: what it recorded is not computed twice",
            )
        self._check_outputs(job, record["outputs"])
        body = job.body(record["outputs"], record["metrics"], record["code"])
        return self.workspace.ledger.append("stage", body, record["time"])

    def _check_outputs(self, job: Job, outputs: Mapping[str, str]) -> None:
        ports, where = contract.ports(job.stage.outs), f"{self.records.prefix}{job.key}.json"
        required = {name for name, (_, needed) in ports.items() if needed}
        if not required <= set(outputs) <= set(ports):
            raise LedgerError(
                expected=f"the outputs of {job.stage.name}: {', '.join(sorted(ports))}",
                found=", ".join(sorted(outputs)) or "none",
                where=where,
                action="delete this record and run the segment again",
            )
        lost = sorted(name for name, digest in outputs.items() if not self.workspace.cas.has(digest))
        if lost:
            raise ArtifactError(
                expected=f"{lost[0]} {outputs[lost[0]]} in {self.workspace.store.uri}",
                found="no manifest, or a file is missing or has another size",
                where=where,
                action="restore the store from a copy, or run the segment again",
            )


def replayed(workspace: Workspace, recipe: Recipe, iteration: int, *, commit: bool) -> Position:
    """Return the position after `iteration`, or the last position if the evolution ended earlier.

    A run of several iterations may be longer than what is left. For a recipe of 5 iterations, iteration 6 means the fifth.
    """
    check_code(workspace, accept=False)
    wanted = min(iteration, recipe.iterations)
    passed = positions(Replay(workspace, commit=commit), recipe)
    return next(position for position in passed if position.iteration == wanted or position.stopped)


def why_over(recipe: Recipe, position: Position) -> str:
    """Return why no iteration follows this position. The text is empty if one follows."""
    if position.stopped or position.iteration < recipe.iterations:
        return position.stopped
    return f"all {recipe.iterations} iterations done"


def finished(workspace: Workspace) -> Outcome:
    """Replay all iterations and the test of the champion, and close the ledger."""
    recipe = stored_recipe(workspace)
    check_code(workspace, accept=False)
    runner = Replay(workspace, commit=True)
    *_, final = positions(runner, recipe)
    outcome = finish(runner, recipe, final)
    close(workspace, outcome)
    return outcome
