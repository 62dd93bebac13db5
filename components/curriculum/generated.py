"""Drawing tasks that the evolution made itself: beside any strategy, without its knowledge (SPARK section 7.2).

A strategy weighs arms of the pools; generated tasks are no arm to it. They are taken from the oldest end of the cache, and
the reward stage takes out of it whatever was attempted, so drawing keeps no cursor.
"""

from __future__ import annotations

from collections.abc import Sequence

from instar.artifact import Tasks
from instar.components.curriculum.config import GeneratedDraw
from instar.components.curriculum.pool import Arm
from instar.components.generated.templates import KINDS
from instar.errors import ContractError
from instar.rows import ArmStatsRow, BatchRow, TaskRow


def due(cache: Sequence[TaskRow], draw: GeneratedDraw | None, last: int) -> list[TaskRow]:
    """Return the tasks to draw in this step, the oldest first. `last` generated slots were drawn in the step before.

    An empty cache gives none. In mode `alternate` a step has them only when `prompts` wait and the step before had none.
    """
    if draw is None or (draw.mode == "alternate" and (last > 0 or len(cache) < draw.prompts)):
        return []
    places = {
        place for kind, share in draw.shares.items() for place in _oldest(cache, kind, round(share * draw.prompts))
    }
    rest = (place for place in range(len(cache)) if place not in places)
    missing = max(0, draw.prompts - len(places))
    return [cache[place] for place in sorted([*places, *list(rest)[:missing]])[: draw.prompts]]


def read_cache(generated: Tasks | None, draw: GeneratedDraw | None) -> list[TaskRow]:
    """Return the tasks that wait, oldest first; none when they are not drawn."""
    return generated.read() if generated is not None and draw is not None else []


def slots(tasks: Sequence[TaskRow], first: int, step: int, group_size: int) -> list[BatchRow]:
    """Return one slot per task, numbered from `first`: groups of their own, drawn for certain."""
    return [
        BatchRow(
            slot=slot,
            task_id=task.task_id,
            arm=task.arm,
            probability=1.0,
            group_id=f"{step:06d}-{slot:04d}",
            group_size=group_size,
        )
        for slot, task in enumerate(tasks, first)
    ]


def split_stats(stats: Sequence[ArmStatsRow]) -> tuple[list[ArmStatsRow], list[ArmStatsRow]]:
    """Return the statistics of the arms of the pools and those of generated kinds."""
    return [row for row in stats if row.arm not in KINDS], [row for row in stats if row.arm in KINDS]


def require_free_names(arms: Sequence[Arm]) -> None:
    """Raise `ContractError` for a pool that is named like a generated kind: its statistics would be taken for theirs."""
    taken = sorted(arm.name for arm in arms if arm.name in KINDS)
    if taken:
        raise ContractError(
            expected=f"arms not named like a generated kind ({', '.join(KINDS)})",
            found=", ".join(taken),
            where="Tasks:arm of split train",
            action="rename the arm",
        )


def _oldest(cache: Sequence[TaskRow], kind: str, count: int) -> list[int]:
    """Return the places of the oldest `count` tasks of a kind."""
    return [place for place, task in enumerate(cache) if task.arm == kind][:count]
