"""The training pool of each arm, read once per process: task names in file order, mean level, size and digest.

Only tasks of split `train` are drawn. The digest covers the names and contents of the tasks in their order, because a cursor is a
position in that order. If a pool changed during an evolution, tasks would be repeated and skipped without any error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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


_PART = 65_536
POOLS: Kind[Pools] = Kind("curriculum-pools", newest=1)


def load_pools(tasks: Tasks, ctx: Context) -> Pools:
    """Return the training pools. They stay in memory until other tasks are read."""
    pools = ctx.resident.get(POOLS, tasks.digest)
    if pools is None:
        pools = read_pools(tasks)
        if tasks.digest:
            ctx.resident.put(POOLS, tasks, pools)
    return pools


class Names(Sequence[str]):
    """Names of tasks in one Arrow array. As Python texts, a million names would take three times the memory."""

    def __init__(self, names: pa.Array) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: Any) -> Any:
        """Return the name at a place, or the names of a slice."""
        return Names(self._names[place]) if isinstance(place, slice) else self._names[place].as_py()

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same names."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def read_pools(tasks: Tasks) -> Pools:
    """Read the pools from the table of tasks. A table without training tasks is a `ContractError`."""
    table = tasks.table(["task_id", "arm", "level", "split", "content_hash"])
    table = table.filter(pc.field("split") == "train").drop_columns("split")
    if not table.num_rows:
        raise ContractError(
            expected="at least one task of split train",
            found="none",
            where=f"Tasks {tasks.digest}:split",
            action="prepare a training pool",
        )
    arms, task_ids = [], {}
    for name in sorted(table.column("arm").unique().to_pylist()):
        mine = table.filter(pc.field("arm") == name).drop_columns("arm").combine_chunks()
        level = float(mine.column("level").to_numpy().mean())
        arms.append(Arm(name=name, level=level, size=mine.num_rows, digest=_digest(mine)))
        task_ids[name] = Names(mine.column("task_id").combine_chunks())
    return Pools(arms=tuple(arms), task_ids=task_ids)


def _digest(table: pa.Table) -> str:
    """Return the digest of names and contents in their order."""
    total, lead = hashlib.sha256(), ""
    for start in range(0, table.num_rows, _PART):
        part = table.slice(start, _PART)
        pairs = zip(part.column("task_id").to_pylist(), part.column("content_hash").to_pylist(), strict=True)
        total.update((lead + "\n".join(f"{i}\t{h}" for i, h in pairs)).encode())
        lead = "\n"
    return total.hexdigest()
