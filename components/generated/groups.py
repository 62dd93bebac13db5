"""Groups of scored attempts at one task: the material that generated tasks are made of (SPARK section 2).

Groups are told apart by `group_id` and may have any size. What is right is read from the column `correct`, never from the reward,
in which a format bonus or a fraction would turn a wrong attempt into a right one or the other way round. The answer shown is the
one the verifier judged: same text, same extraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from instar.components.generated.item import is_generated
from instar.components.reward.extract import extract
from instar.errors import ContractError
from instar.rows import RolloutRow, ScoreRow, TaskRow


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt: its whole text and the answer in it, None when there is none to read."""

    text: str
    answer: str | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """The right and the wrong attempts of one group at one task, in the order they were sampled."""

    group_id: str
    parent: TaskRow
    policy: str
    right: tuple[Attempt, ...]
    wrong: tuple[Attempt, ...]


def collect(
    tasks: Mapping[str, TaskRow],
    rollouts: Sequence[RolloutRow],
    scores: Sequence[ScoreRow],
    text_of: Callable[[RolloutRow], str],
    style: str,
    *,
    keep_truncated: bool = False,
) -> tuple[list[Group], Counter[str]]:
    """Return the groups of ordinary tasks and how many attempts were left out, by reason.

    Left out: attempts at generated tasks (`generated`), without a verdict (`unscored`), neither right nor wrong (`partial`), cut by
    the length limit (`truncated`) and blank (`blank`). A group over two tasks is a `ContractError`.
    """
    dropped: Counter[str] = Counter()
    parents: dict[str, TaskRow] = {}
    policies: dict[str, str] = {}
    found: dict[str, tuple[list[Attempt], list[Attempt]]] = {}
    for rollout, score in zip(rollouts, scores, strict=True):
        task = tasks[rollout.task_id]
        reason = _left_out(task, rollout, score, keep_truncated)
        text = "" if reason else text_of(rollout)
        if reason or not text.strip():
            dropped[reason or "blank"] += 1
            continue
        if parents.setdefault(rollout.group_id, task).task_id != task.task_id:
            raise ContractError(
                expected=f"one task in group {rollout.group_id}",
                found=f"{parents[rollout.group_id].task_id} and {task.task_id}",
                where="Rollouts:group_id",
                action="give every prompt slot a group id of its own",
            )
        policies.setdefault(rollout.group_id, rollout.policy)
        right, wrong = found.setdefault(rollout.group_id, ([], []))
        (right if score.correct == 1.0 else wrong).append(Attempt(text=text.strip(), answer=extract(text, style)))
    groups = [
        Group(group_id=name, parent=parents[name], policy=policies[name], right=tuple(right), wrong=tuple(wrong))
        for name, (right, wrong) in found.items()
    ]
    return groups, dropped


def _left_out(task: TaskRow, rollout: RolloutRow, score: ScoreRow, keep_truncated: bool) -> str:
    if is_generated(task):
        return "generated"
    if score.status != "scored" or score.correct is None:
        return "unscored"
    if 0.0 < score.correct < 1.0:
        return "partial"
    return "truncated" if rollout.truncated and not keep_truncated else ""
