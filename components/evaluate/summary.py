"""Scores per arm and split, from evaluation rows: the mean per task, then per arm, then the macro mean over arms.

An attempt whose verdict failed or abstained has no number. It is left out and counted. A task without any number is left out of its
arm. An arm without any task left is a `ContractError`, because a macro mean over fewer arms would be another metric.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instar.components.evaluate.intervals import stratified_mean, wilson
from instar.errors import ContractError
from instar.rows import EvalRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import Config

Means = dict[str, dict[str, float]]
"""Arm -> task -> mean score. For answers it is a share in [0, 1], and for episodes it can be any number."""


def task_means(rows: Sequence[EvalRow], split: str, greedy: bool) -> Means:
    """Return the mean score of every task of `split` that has a verdict, over its samples or for its greedy answer.

    Answers after reflection (sample -2) are left out in both cases.
    """
    answers: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        wanted = row.sample == -1 if greedy else row.sample >= 0
        if row.split == split and wanted and row.score is not None:
            answers[row.arm][row.task_id].append(row.score)
    return {arm: {task: sum(values) / len(values) for task, values in tasks.items()} for arm, tasks in answers.items()}


def arrays(means: Means) -> list[NDArray[np.float64]]:
    """Return one array of task means per arm. Arms and tasks are sorted by name."""
    return [np.array([means[arm][t] for t in sorted(means[arm])], dtype=np.float64) for arm in sorted(means)]


def split_summary(rows: Sequence[EvalRow], split: str, config: Config) -> dict[str, Any]:
    """Return the summary of one split: the score with its interval, over arms and per arm, the worst arm, and counts."""
    primary = config.by_greedy
    mine = [row for row in rows if row.split == split and row.sample >= -1]
    means = task_means(mine, split, greedy=primary)
    lost = sorted({row.arm for row in mine} - means.keys())
    if lost or not means:
        raise ContractError(
            expected=f"a verdict in every arm of split {split}",
            found=f"none in {lost or 'any arm'}",
            where="Evaluation:score",
            action="fix the verifier or the references of these tasks",
        )
    arms = {arm: _arm(mine, arm, tasks, config) for arm, tasks in sorted(means.items())}
    macro = stratified_mean(arrays(means), config.confidence, bounded=config.bounded)
    worst = min(arms, key=lambda arm: (arms[arm]["score"], arm))
    out = {
        "score": macro.estimate,
        "low": macro.low,
        "high": macro.high,
        "worst_arm": worst,
        "worst_score": arms[worst]["score"],
        "arms": arms,
    }
    if config.strategy == "answer" and config.greedy:
        greedy = task_means(mine, split, greedy=True)
        out["greedy_score"] = float(np.mean([a.mean() for a in arrays(greedy)])) if greedy else None
    return out


def _arm(rows: Sequence[EvalRow], arm: str, tasks: dict[str, float], config: Config) -> dict[str, Any]:
    mine, values = [row for row in rows if row.arm == arm], np.array([tasks[t] for t in sorted(tasks)])
    score = sum(tasks.values()) / len(tasks)
    if config.bounded:
        low, high = wilson(score, len(tasks), config.confidence)
    else:
        interval = stratified_mean([values], config.confidence, bounded=False)
        low, high = interval.low, interval.high
    return {
        "score": score,
        "low": low,
        "high": high,
        "num_tasks": len(tasks),
        "num_answers": len(mine),
        "num_without_verdict": sum(row.score is None for row in mine),
        "truncated_share": sum(row.truncated for row in mine) / len(mine),
        "mean_length": sum(row.length for row in mine) / len(mine),
    }
