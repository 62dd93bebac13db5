"""Retraining on a schedule: an evolution that is done is followed by its next generation, `<name>-g0002`, `<name>-g0003`, ...

A generation is an evolution of its own. It has the recipe of the generation before it. Its ledger, head and random numbers are
its own. One generation runs at a time.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from instar import head as heads
from instar.errors import LedgerError
from instar.head import Head
from instar.kfp.api import KfpApi
from instar.pipelines.brought import pinned
from instar.pipelines.chain.submission import Action, start
from instar.pipelines.chain.tick import tick
from instar.pipelines.lifecycle import open_evolution, stored_recipe
from instar.store import ObjectStore
from instar.workspace import Workspace


def tick_newest(store: ObjectStore, api: KfpApi, evolution: str, restart: bool, now: float, owner: str) -> Action:
    """Repair the newest generation. With `restart`, begin the next one if it is done. `now` is in seconds since the epoch.

    Raises `LedgerError` if the store has no such evolution. Otherwise a schedule with a misspelled name would look healthy.
    """
    name, number = newest(store, evolution)
    versioned = heads.read_head(store, name)
    if versioned is None:
        raise LedgerError(
            expected=f"the head of evolution '{evolution}'",
            found="nothing",
            where=f"{store.uri}, {heads.path(evolution, 'head')}",
            action="correct the name or the store of the schedule, or delete it",
        )
    if restart and versioned[0].status == "done":
        return begin(store, api, name, generation(evolution, number + 1), now, owner)
    return tick(store, api, name, now, owner)


def newest(store: ObjectStore, evolution: str) -> tuple[str, int]:
    """Return name and number of the newest generation. The first has the evolution's own name."""
    number = 1
    while store.exists(heads.path(generation(evolution, number + 1), "head")):
        number += 1
    return generation(evolution, number), number


def generation(evolution: str, number: int) -> str:
    """Return the name of a generation."""
    return evolution if number == 1 else f"{evolution}-g{number:04d}"


def is_generation(evolution: str) -> bool:
    """Return whether a name is that of a later generation."""
    return re.search(r"-g\d{4,}$", evolution) is not None


def begin(store: ObjectStore, api: KfpApi, previous: str, following: str, now: float, owner: str) -> Action:
    """Open the next generation with the recipe and the chain of the previous one, and submit its first run."""
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        before = Workspace(Path(folder) / "before", previous, store.uri)
        opened = next(before.ledger.of("open"))
        workspace = Workspace(Path(folder) / "following", following, store.uri)
        open_evolution(workspace, stored_recipe(before), int(opened.body["seed"]), pinned(before.ledger))
        chain = heads.read_chain(store, previous)
        head = Head(evolution=following, ledger=workspace.ledger.head)
        return start(store, api, head, chain, owner, now)
