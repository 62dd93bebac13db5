"""Gather: the shards of a rollout are joined to one table, in the order of the batch.

A prompt without its rollouts, or with too many, is an error. Otherwise a lost shard would look like prompts that nobody drew.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Batch, Rollouts
from instar.components.rollout.describe import describe
from instar.contract import Context, Metrics, Stage
from instar.errors import ContractError
from instar.rows import RolloutRow


@dataclass(frozen=True, kw_only=True)
class GatherConfig:
    """There is nothing to set."""


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The drawn prompts and the rollouts of every shard."""

    batch: Batch
    parts: tuple[Rollouts, ...]


@dataclass(frozen=True, kw_only=True)
class Outs:
    """All rollouts, as one rollout without shards would have written them."""

    rollouts: Rollouts


def gather(ins: Ins, outs: Outs, config: GatherConfig, ctx: Context) -> Metrics:
    """Join the parts. Raises `ContractError` unless every prompt has exactly its group of samples."""
    del config, ctx
    groups: dict[str, list[RolloutRow]] = {}
    for part in ins.parts:
        for row in part.iter():
            groups.setdefault(row.group_id, []).append(row)
    batch = ins.batch.read()
    expected = {slot.group_id: slot.group_size for slot in batch}
    sizes = {group: len(rows) for group, rows in groups.items()}
    if sizes != expected:
        wrong = sorted(g for g in {*sizes, *expected} if sizes.get(g) != expected.get(g))
        raise ContractError(
            expected=f"{len(expected)} groups, each of the size that was drawn",
            found=f"{len(wrong)} groups of another size; the first is {wrong[0]}, with {sizes.get(wrong[0], 0)} rollouts "
            f"instead of {expected.get(wrong[0], 0)}",
            where=f"gather of {len(ins.parts)} shards",
            action="run the missing shard again, and give every shard the same batch and the same number of shards",
        )
    rows = [row for slot in batch for row in groups[slot.group_id]]
    outs.rollouts.write(rows)
    return describe(rows)


STAGE = Stage("gather", Ins, Outs, GatherConfig, gather)
