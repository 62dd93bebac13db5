"""The training pools by arm, read once per process: task names in file order, level, size, and a digest of each pool.

Only tasks of split `train` are ever drawn. The digest covers names and contents in order, because a cursor is a
position in that order: a pool that changed under a running evolution would silently repeat and skip tasks.
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
    """What a strategy knows of an arm: its name, mean level, number of training tasks and pool digest."""

    name: str
    level: float
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Arms sorted by name, and for each the names of its training tasks in file order."""

    arms: tuple[Arm, ...]
    task_ids: Mapping[str, Sequence[str]]


POOLS: Kind[Pools] = Kind("curriculum-pools", newest=1)


def load_pools(tasks: Tasks, ctx: Context) -> Pools:
    """Return the training pools, which stay resident until those of other tasks are read."""
    pools = ctx.resident.get(POOLS, tasks.digest)
    if pools is None:
        pools = read_pools(tasks)
        if tasks.digest:
            ctx.resident.put(POOLS, tasks, pools)
    return pools


def read_pools(tasks: Tasks) -> Pools:
    """Read the pools from the table. A table without training tasks is a `ContractError`."""
    table = tasks.table().select(["task_id", "arm", "level", "split", "content_hash"]).combine_chunks()
    rows = np.flatnonzero(table.column("split").to_numpy() == "train")
    if not rows.size:
        raise ContractError(
            expected="tasks of split train",
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
