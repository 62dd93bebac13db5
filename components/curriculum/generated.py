"""Drawing tasks that the evolution made itself. It works beside any strategy (SPARK section 7.2).

A strategy weighs the arms of the task pools and never sees generated tasks. They wait in a cache, and the oldest are drawn first.
The reward stage removes attempted tasks from the cache, so no cursor is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from instar.artifact import Tasks
from instar.components.curriculum.config import GeneratedDraw
from instar.components.curriculum.pool import Arm
from instar.components.generated.templates import KINDS
from instar.errors import ContractError
from instar.rows import ArmStatsRow, BatchRow, TaskRow


def due(cache: Sequence[TaskRow], draw: GeneratedDraw | None, drawn_before: int) -> list[TaskRow]:
    """Return the generated tasks to draw in this step, the oldest first. `drawn_before` of them were drawn in the step before.

    With an empty cache there are none. In mode `alternate` there are none unless `prompts` tasks wait and the step before had none.
    """
    if draw is None or (draw.mode == "alternate" and (drawn_before > 0 or len(cache) < draw.prompts)):
        return []
    places = {
        place for kind, share in draw.shares.items() for place in _oldest(cache, kind, round(share * draw.prompts))
    }
    rest = (place for place in range(len(cache)) if place not in places)
    missing = max(0, draw.prompts - len(places))
    return [cache[place] for place in sorted([*places, *list(rest)[:missing]])[: draw.prompts]]


def read_cache(generated: Tasks | None, draw: GeneratedDraw | None) -> list[TaskRow]:
    """Return the tasks that wait, the oldest first. The list is empty when the configuration draws no generated tasks."""
    return generated.read() if generated is not None and draw is not None else []


def slots(tasks: Sequence[TaskRow], first: int, step: int, group_size: int) -> list[BatchRow]:
    """Return one slot per task, numbered from `first`. Each slot is a group of its own. Its probability is 1."""
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
    """Raise `ContractError` for an arm of a pool with the name of a generated kind. Statistics could not tell the two apart."""
    names = sorted(arm.name for arm in arms if arm.name in KINDS)
    if names:
        raise ContractError(
            expected=f"arms not named like a generated kind ({', '.join(KINDS)})",
            found=", ".join(names),
            where="Tasks:arm of split train",
            action="rename the arm",
        )


def _oldest(cache: Sequence[TaskRow], kind: str, count: int) -> list[int]:
    """Return the positions of the oldest `count` tasks of a kind in the cache."""
    return [place for place, task in enumerate(cache) if task.arm == kind][:count]
