"""Is one policy better than another? A paired comparison on the same tasks, with a verdict that a script can act on.

The difference is the score of the policy minus that of the baseline, as a mean over arms. Let [low, high] be its interval and m the
margin. The first rule that holds gives the verdict:

    low > 0      better
    low >= -m    equal: no loss beyond the margin
    high < 0     worse
    otherwise    unknown

The verdict is also `unknown` with fewer than `min_pairs` common tasks, with an arm of fewer than two common tasks, or when the
baseline answered under another protocol. A few tasks without a difference do not prove that nothing was lost: 48 equal answers
leave room for a loss of 7 points. A policy is `equal` to itself, however.

`needed` says how many more tasks of the same kind would decide, if the difference and its spread stayed the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar import config as configs
from instar.components.evaluate.config import Config
from instar.components.evaluate.intervals import Interval, Moments, limits, moments, student
from instar.components.evaluate.summary import arrays, task_means
from instar.rows import EvalRow, TaskRow

Verdict: TypeAlias = Literal["better", "equal", "worse", "unknown"]
EXIT_CODES: dict[Verdict, int] = {"better": 0, "equal": 0, "worse": 3, "unknown": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference of the mean over arms, with its interval, on `num_tasks` common tasks. Numbers are None if not computed."""

    verdict: Verdict
    reason: str
    num_tasks: int
    num_unpaired: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    needed: int | None = None
    """How many more tasks of the same kind would decide, if the difference and its spread stayed as measured.

    None when the verdict is known, and when the policy is behind the baseline.
    """

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return dataclasses.asdict(self)


def protocol(config: Config, tasks: Sequence[TaskRow]) -> str:
    """Return a digest of the settings and task contents under which answers are comparable."""
    settings = {name: getattr(config, name) for name in config.protocol}
    contents = sorted((task.task_id, task.split, task.content_hash) for task in tasks)
    return configs.digest({"settings": settings, "tasks": contents})


def compare(rows: Sequence[EvalRow], baseline: Sequence[EvalRow], split: str, config: Config) -> Comparison:
    """Compare two policies on the tasks of `split` that have a verdict for both."""
    ours = task_means(rows, split, greedy=config.by_greedy)
    theirs = task_means(baseline, split, greedy=config.by_greedy)
    pairs: dict[str, dict[str, float]] = {}
    for arm in sorted(ours.keys() & theirs.keys()):
        common = ours[arm].keys() & theirs[arm].keys()
        if common:
            pairs[arm] = {task: ours[arm][task] - theirs[arm][task] for task in common}
    count = sum(len(tasks) for tasks in pairs.values())
    either = sum(len(ours.get(a, {}).keys() | theirs.get(a, {}).keys()) for a in ours.keys() | theirs.keys())
    if ours.keys() != theirs.keys():
        only = sorted(ours.keys() ^ theirs.keys())
        return _unknown(f"arms {only} have answers of one policy alone", count, either - count)
    if count < config.min_pairs or min(len(tasks) for tasks in pairs.values()) < 2 or len(pairs) < len(ours):
        return _unknown(f"{count} common tasks; at least {config.min_pairs} and two per arm", count, either - count)
    difference = moments(arrays(pairs))
    low, high = limits(difference, config.confidence, bounded=config.bounded)
    interval = Interval(estimate=float(difference.estimate), low=float(low), high=float(high))
    verdict, reason = judge(interval, config.margin)
    needed = more(difference, count, config) if verdict == "unknown" else None
    return Comparison(
        verdict=verdict,
        reason=reason if needed is None else f"{reason}; about {needed} more tasks like these would tell",
        num_tasks=count,
        num_unpaired=either - count,
        difference=interval.estimate,
        low=interval.low,
        high=interval.high,
        needed=needed,
    )


def judge(interval: Interval, margin: float) -> tuple[Verdict, str]:
    """Return the verdict that follows from the interval of the difference, and the rule that gave it."""
    if interval.low > 0.0:
        return "better", f"the interval lies above 0 (low {interval.low:+.3f})"
    if interval.low >= -margin:
        return "equal", f"no loss beyond {margin:g} (low {interval.low:+.3f})"
    if interval.high < 0.0:
        return "worse", f"the interval lies below 0 (high {interval.high:+.3f})"
    return (
        "unknown",
        f"the interval [{interval.low:+.3f}, {interval.high:+.3f}] holds a gain and a loss beyond {margin:g}",
    )


def more(difference: Moments, count: int, config: Config) -> int | None:
    """Return how many tasks beside `count` would show a gain, or rule out a loss beyond the margin. The smaller number counts.

    All arms are taken to grow by the same factor, so the variance and the largest effect of one task shrink by that factor. Returns
    None when the policy is behind, and when no number of tasks would be enough.
    """
    ahead, margin = float(difference.estimate), config.margin
    unseen = difference.event * margin * (1.0 - margin) if config.bounded else 0.0
    cases = [(ahead, float(difference.variance)), (ahead + margin, max(float(difference.variance), unseen))]
    factors = [spread / reach**2 for reach, spread in cases if reach > 0.0]
    if ahead < 0.0 or not factors:
        return None
    return max(1, math.ceil(count * (student(config.confidence, difference.freedom) ** 2 * min(factors) - 1.0)))


def the_same(num_tasks: int) -> Comparison:
    """Return the comparison of a policy with itself."""
    return Comparison(
        verdict="equal",
        reason="the same policy",
        num_tasks=num_tasks,
        num_unpaired=0,
        difference=0.0,
        low=0.0,
        high=0.0,
    )


def other_protocol(config: Config) -> Comparison:
    """Return the comparison with a baseline that was evaluated under other settings."""
    return _unknown(f"the baseline answered other tasks, or under other values of {', '.join(config.protocol)}", 0, 0)


def exit_code(verdict: Verdict) -> int:
    """Return the exit code for scripts: 0 better or equal, 3 worse, 2 could not tell."""
    return EXIT_CODES[verdict]


def _unknown(reason: str, num_tasks: int, num_unpaired: int) -> Comparison:
    return Comparison(verdict="unknown", reason=reason, num_tasks=num_tasks, num_unpaired=num_unpaired)
