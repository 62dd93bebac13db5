"""Groups of scored attempts at one task. Generated tasks are made of them (SPARK section 2).

All rollouts with one `group_id` form a group, of any size. The column `correct` says which attempts are right. The reward could not
say it: a format bonus gives a wrong attempt a reward above 0. The answer that a task shows is the answer that the verifier judged,
because both are extracted from the same text in the same way.
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
    """One attempt: its whole text, and the answer in it. The answer is None when the text has no readable answer."""

    text: str
    answer: str | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """The right and the wrong attempts of one group, in the order of the rollouts."""

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
    """Return the groups of ordinary tasks, and for each reason how many attempts were left out.

    The reasons are: the task is itself a generated one (`generated`), the attempt has no verdict (`unscored`), it is neither right
    nor wrong (`partial`), the length limit cut it (`truncated`), or its text is blank (`blank`). A group with rollouts of two tasks
    is a `ContractError`.
    """
    dropped: Counter[str] = Counter()
    parents: dict[str, TaskRow] = {}
    policies: dict[str, str] = {}
    attempts: dict[str, tuple[list[Attempt], list[Attempt]]] = {}
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
        right, wrong = attempts.setdefault(rollout.group_id, ([], []))
        (right if score.correct == 1.0 else wrong).append(Attempt(text=text.strip(), answer=extract(text, style)))
    groups = [
        Group(group_id=name, parent=parents[name], policy=policies[name], right=tuple(right), wrong=tuple(wrong))
        for name, (right, wrong) in attempts.items()
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
