"""`instar replay`: runs the stages of an iteration again and says whether the results are those of the ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path

from instar.code import code_version
from instar.pipelines import versions
from instar.pipelines.lifecycle import stored_recipe
from instar.pipelines.rerun import Rerun, rerun
from instar.sources import FOLDER, locate
from instar.terminal import say, warn
from instar.workspace import Workspace, open_workspace

EQUAL, DIFFERENT = 0, 1


def replay(run: str, iteration: int, stage: str) -> int:
    """Run the stages of an iteration again, or only `stage`. Return 0 if all results are equal, otherwise 1.

    `run` is an evolution directory, or `STORE/evolutions/NAME` where only the store is at hand.
    """
    with tempfile.TemporaryDirectory(prefix="instar-replay-") as temporary:
        folder = Path(temporary)
        workspace = _recorded(run, folder / "recorded")
        recipe = stored_recipe(workspace)
        _say_versions(workspace, recipe.threads)
        results = []
        for result in rerun(workspace, recipe, iteration, stage, folder):
            say(_line(result))
            results.append(result)
    different = sum(bool(result.differences) for result in results)
    say(f"{different} of {len(results)} differ\n" if different else f"equal: {len(results)} of {len(results)}\n")
    return DIFFERENT if different else EQUAL


def _recorded(run: str, cache: Path) -> Workspace:
    """Return the evolution for reading. Its artifacts are fetched into `cache`, and its own cache is not used."""
    if FOLDER in run and not (Path(run) / "evolution.json").exists():
        store, evolution = locate(run)
        return Workspace(cache, evolution, store.uri)
    workspace = open_workspace(Path(run))
    return Workspace(cache, workspace.evolution, workspace.store_uri)


def _say_versions(workspace: Workspace, threads: int) -> None:
    codes = {entry.body["code"] for entry in workspace.ledger.of("stage")}
    if codes - {code_version()}:
        warn(f"warning: the ledger has code {', '.join(sorted(codes))}, and this is {code_version()}\n")
    ran = versions.noted(workspace.ledger.entries)
    warn(versions.sentence("this evolution ran and is replayed", versions.changes(ran, versions.notes(threads))))


def _line(result: Rerun) -> str:
    body = result.entry.body
    what = f"entry {result.entry.seq}, {body['stage']} of iteration {body['iteration']}, step {body['step']}"
    if not result.differences:
        return f"equal      {what}: {len(body['outputs'])} outputs, {len(body['metrics'])} metrics\n"
    return f"different  {what}\n" + "".join(f"             {line}\n" for line in result.differences)
