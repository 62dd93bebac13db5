"""Results of another directory: what an evolution has already computed there is taken over, and not computed again.

A result depends on what its memo key is made of: stage, configuration, inputs, the name of the evolution with its seed, and the
step. So equal keys in two directories mean equal results. One changed byte of a reward changes the keys of what reads the reward,
and of all that follows from it. The rest is taken over. For example, the data and the first policy are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from instar.cas import Cas
from instar.code import code_version
from instar.contract import NOTE
from instar.errors import ConfigError, LedgerError
from instar.ledger import Entry
from instar.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from instar.pipelines.ledger_runner import Job

REUSED = "reused"
"""In the `time` of an entry: the digest of the entry of the other directory that it was taken from."""


def open_reused(directory: Path, workspace: Workspace) -> Workspace:
    """Open the directory whose results are taken over. It must be of an evolution with the same name, and thus the same seed."""
    other = open_workspace(directory)
    if other.path.resolve() == workspace.path.resolve():
        raise ConfigError(
            expected="another directory",
            found="the directory of the run itself",
            where=f"--reuse {directory}",
            action="leave --reuse out, because a run goes on with its own results anyway",
        )
    if other.evolution != workspace.evolution:
        raise ConfigError(
            expected=f"results of '{workspace.evolution}'",
            found=f"those of '{other.evolution}', which have other random numbers",
            where=f"--reuse {directory}",
            action="choose the recipe, the scale and the seed of that directory, or leave --reuse out",
        )
    if not other.ledger.entries:
        raise LedgerError(
            expected="results",
            found="an empty ledger",
            where=f"--reuse {directory}",
            action="correct the path, or leave --reuse out",
        )
    return other


def take_over(other: Workspace, workspace: Workspace, job: Job) -> Entry | None:
    """Append the entry of a job as the other directory has it, and copy its outputs. Return None if they are not there.

    A result that another version of instar computed is not taken over.
    """
    theirs = other.ledger.committed(job.key)
    if theirs is None or theirs.body["code"] != code_version():
        return None
    outputs = dict(theirs.body["outputs"])
    if not all(map(other.cas.has, outputs.values())):
        return None
    for digest in outputs.values():
        copy(other.cas, workspace.cas, digest)
    now = time.time()
    notes = {name: value for name, value in theirs.time.items() if name.startswith(NOTE)}
    body = job.body(outputs, dict(theirs.body["metrics"]), theirs.body["code"])
    return workspace.ledger.append("stage", body, {"started": now, "ended": now, REUSED: theirs.digest, **notes})


def copy(source: Cas, target: Cas, digest: str) -> None:
    """Copy an artifact between two stores. Every byte is checked against its digest."""
    if not target.has(digest):
        manifest = source.manifest(digest)
        target.put(source.get(digest), manifest.type, manifest.metadata)
