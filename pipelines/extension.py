"""More iterations for an evolution that was opened with fewer: what was done stays valid, and the next iteration follows.

    instar run sec --out runs/a                              36 iterations
    instar run sec --set iterations=50 --out runs/a          goes on with iteration 37

An entry `extend` of the ledger has the new number. `Ledger.recipe` is the only place that reads it. Nothing that was done depends
on the number of iterations: random numbers and memo keys count steps from the start. Plans that a recipe has for its length stay as
they were opened, for example the steps of the curriculum `ordered`, because another plan would be another recipe.
"""

from __future__ import annotations

import time
from dataclasses import replace

from instar import head as heads
from instar.errors import ConfigError, LockedError
from instar.head import Head
from instar.workspace import Workspace


def extend(workspace: Workspace, iterations: int) -> None:
    """Plan `iterations` in all. An evolution on a cluster is set running again.

    Raises `ConfigError` for fewer iterations than were begun, and for an evolution that its gate has ended. Raises `LockedError`
    while the chain of a cluster works on the evolution.
    """
    ledger = workspace.ledger
    begun = max((int(e.body["iteration"]) for e in ledger.entries if e.kind in ("stage", "gate")), default=0)
    if iterations < begun:
        raise ConfigError(
            expected=f"at least {begun} iterations, because so many were begun",
            found=str(iterations),
            where=f"{workspace.path}: iterations",
            action=f"set iterations={ledger.recipe['iterations']} to go on with this evolution, or choose another --out",
        )
    decided = next(reversed(list(ledger.of("gate"))), None)
    if decided is not None and decided.body["decision"]["action"] == "stop":
        raise ConfigError(
            expected="an evolution that its gate lets go on",
            found=f"a stop after iteration {decided.body['iteration']}: {decided.body['decision']['reason']}",
            where=f"{workspace.path}: iterations",
            action="start another evolution from its champion: `instar run RECIPE --from DIR --out OTHER`",
        )
    _check_chain(workspace)
    ledger.append("extend", {"iterations": iterations}, {"at": time.time()})


def _check_chain(workspace: Workspace) -> None:
    """Refuse to write to a ledger to which the runs of a cluster write."""
    versioned = heads.read_head(workspace.store, workspace.evolution)
    if versioned is not None and versioned[0].status != "done":
        raise LockedError(
            expected="an evolution that is done, because its runs write to its ledger until then",
            found=f"{versioned[0].status}, segment {versioned[0].segment}",
            where=heads.path(workspace.evolution, "head"),
            action="wait until it is done (`instar status DIR`), then give the same command again",
        )


def reopen(workspace: Workspace, max_segments: int = 0) -> None:
    """Set the head of an extended evolution running again, if it is done. After a crash it can be repeated.

    `max_segments` is the new limit of the chain; 0 stands for an evolution that has no chain of runs.
    """
    if workspace.ledger.closing is not None or heads.read_head(workspace.store, workspace.evolution) is None:
        return
    if max_segments:
        heads.raise_limit(workspace.store, workspace.evolution, max_segments)

    def decide(head: Head) -> Head | None:
        if head.status != "done":
            return None
        return replace(head, kind="iterate", status="running", reason="", by="", ledger=workspace.ledger.head)

    heads.change(workspace.store, workspace.evolution, decide)
