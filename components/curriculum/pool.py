"""The training pool of each arm, read once per process: task names in file order, mean level, size and digest.

Only tasks of split `train` are drawn. The digest covers the names and contents of the tasks in their order, because a cursor is a
position in that order. If a pool changed during an evolution, tasks would be repeated and skipped without any error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from instar.artifact import Tasks
from instar.contract import Context
from instar.errors import ContractError
from instar.resident import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What a strategy knows of an arm: its name, its mean level, its number of training tasks and the digest of its pool."""

    name: str
    level: float
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The arms, sorted by name, and the names of their training tasks in file order."""

    arms: tuple[Arm, ...]
    task_ids: Mapping[str, Sequence[str]]


POOLS: Kind[Pools] = Kind("curriculum-pools", newest=1)


def load_pools(tasks: Tasks, ctx: Context) -> Pools:
    """Return the training pools. They stay in memory until other tasks are read."""
    pools = ctx.resident.get(POOLS, tasks.digest)
    if pools is None:
        pools = read_pools(tasks)
        if tasks.digest:
            ctx.resident.put(POOLS, tasks, pools)
    return pools


def read_pools(tasks: Tasks) -> Pools:
    """Read the pools from the table of tasks. A table without training tasks is a `ContractError`."""
    table = tasks.table(["task_id", "arm", "level", "split", "content_hash"]).combine_chunks()
    rows = np.flatnonzero(table.column("split").to_numpy() == "train")
    if not rows.size:
        raise ContractError(
            expected="at least one task of split train",
            found="none",
            where=f"Tasks {tasks.digest}:split",
            action="prepare a training pool",
        )
    names, codes = np.unique(table.column("arm").to_numpy()[rows].astype(str), return_inverse=True)
    ids, hashes = table.column("task_id").to_numpy()[rows], table.column("content_hash").to_numpy()[rows]
    levels = table.column("level").to_numpy()[rows]
    arms, task_ids = [], {}
    for code, name in enumerate(names.tolist()):
        mine = np.flatnonzero(codes == code)
        members = ids[mine].tolist()
        text = "\n".join(f"{i}\t{h}" for i, h in zip(members, hashes[mine].tolist(), strict=True))
        digest = hashlib.sha256(text.encode()).hexdigest()
        arms.append(Arm(name=name, level=float(levels[mine].mean()), size=len(members), digest=digest))
        task_ids[name] = members
    return Pools(arms=tuple(arms), task_ids=task_ids)
