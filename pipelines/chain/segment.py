"""The control nodes of a segment: `open` before the stages, `gate` between two iterations, `advance` after them.

None of them computes what a stage computes. They read and write the ledger, the head and the API of Kubeflow Pipelines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from instar import config as configs
from instar.errors import ArtifactError, LockedError
from instar.fence import advance_head, check_held, hold
from instar.head import Head, Kind, claim, create_head, latest_claim, read_head
from instar.kfp.api import KfpApi
from instar.kfp.client import open_kfp
from instar.pipelines.brought import of_digests
from instar.pipelines.chain import submission
from instar.pipelines.evolution import Position
from instar.pipelines.lifecycle import open_evolution, stored_recipe
from instar.pipelines.recipe import Recipe
from instar.pipelines.replay import finished, replayed, why_over
from instar.workspace import Workspace

API = HOST, TOKEN, NAMESPACE = "INSTAR_KFP_HOST", "INSTAR_KFP_TOKEN_FILE", "INSTAR_KFP_NAMESPACE"
"""Environment of the last node: API server, token file, namespace. If no server is named, somebody else starts the next segment."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that a control node belongs to."""

    run_id: str
    segment: int
    attempt: int


def begin(workspace: Workspace, recipe: Mapping[str, Any], opening: Mapping[str, Any] = MappingProxyType({})) -> Head:
    """Open an evolution whose segments are started by another engine than `submit`, and return its head. It can be repeated.

    `opening` has the digests of what the user brought (`brought`), and `notes` for the opening entry.
    Raises `ArtifactError` if the store does not hold what was brought.
    """
    resolved: Recipe = configs.from_dict(Recipe, recipe, where="--recipe")
    brought = of_digests(opening.get("brought", {}))
    for name, artifact in brought.items():
        if not workspace.cas.has(artifact.digest):
            raise ArtifactError(
                expected=f"{name} {artifact.digest}, which was stored when the workflow was compiled",
                found="nothing",
                where=workspace.store_uri,
                action="run the workflow with the store that `instar compile --store` named, or compile it for this store",
            )
    open_evolution(workspace, resolved, 0, brought, opening.get("notes", {}))
    create_head(workspace.store, Head(evolution=workspace.evolution, ledger=workspace.ledger.head))
    versioned = read_head(workspace.store, workspace.evolution)
    assert versioned is not None
    return versioned[0]


def open_segment(workspace: Workspace, run: Run) -> Position | None:
    """Take the fence of the segment and return the position of the loop. It is None in the first segment.

    Engines that start a segment without `submit`, such as Argo, give attempt 0. Then the next attempt is claimed first.
    Raises `LockedError` if another run holds the segment. So a run that was created twice ends here, before any work.
    """
    attempt = run.attempt or _claim_next(workspace, run)
    head = hold(workspace.store, workspace.evolution, run.segment, attempt, run.run_id)
    if head.kind == "begin":
        return None
    return replayed(workspace, stored_recipe(workspace), head.iteration, commit=False)


def _claim_next(workspace: Workspace, run: Run) -> int:
    latest = latest_claim(workspace.store, workspace.evolution, run.segment)
    if latest is not None and latest.owner == run.run_id:
        return latest.attempt
    attempt = (latest.attempt if latest else 0) + 1
    if claim(workspace.store, workspace.evolution, run.segment, attempt, run.run_id, time.time()) is None:
        raise LockedError(
            expected="to be the only one that starts this segment",
            found=f"another claim of attempt {attempt}",
            where=f"{workspace.evolution}, segment {run.segment}",
            action="nothing: the other run goes on",
        )
    return attempt


def gate(workspace: Workspace, run: Run, iteration: int) -> Position:
    """Commit the records up to `iteration`, decide, and return the position of the loop."""
    check_held(workspace.store, workspace.evolution, run.run_id)
    return replayed(workspace, stored_recipe(workspace), iteration, commit=True)


def advance(workspace: Workspace, run: Run, iteration: int) -> Head:
    """Commit the segment and move the head. After a crash at any point it can be repeated, and it goes on at that point."""
    store, evolution = workspace.store, workspace.evolution
    head = check_held(store, evolution, run.run_id)
    if head.by == run.run_id:
        return head
    if head.kind == "finish":
        outcome = finished(workspace)
        following = replace(head, status="done", reason=outcome.reason)
    else:
        recipe = stored_recipe(workspace)
        position = replayed(workspace, recipe, iteration, commit=True)
        over, done = why_over(recipe, position), position.iteration
        kind: Kind = "finish" if over else "iterate"
        following = replace(head, kind=kind, iteration=done, step=done * recipe.inner_steps, reason=over)
    moved = replace(following, segment=head.segment + 1, ledger=workspace.ledger.head)
    advance_head(store, evolution, run.run_id, moved)
    return check_held(store, evolution, run.run_id)


def start_next(workspace: Workspace, head: Head, owner: str) -> str:
    """Submit the run of the head's segment if the environment names an API server. Return what was done."""
    api = api_from_environment()
    if head.status != "running" or api is None:
        return head.status
    action = submission.submit_current(workspace.store, api, workspace.evolution, owner)
    return f"{action.did}: {action.reason}"


def api_from_environment() -> KfpApi | None:
    """Return a client of the API server that the environment names, or None."""
    host, token = os.environ.get(HOST, ""), os.environ.get(TOKEN)
    return open_kfp(host, Path(token) if token else None, os.environ.get(NAMESPACE, "")) if host else None
