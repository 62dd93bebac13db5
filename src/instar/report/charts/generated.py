"""Which training metrics are drawn of tasks that an evolution made itself; drawn where they are there."""

from __future__ import annotations

from typing import TypeAlias

Curves: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""((legend, metric names in order of preference), ...)"""
Lines: TypeAlias = dict[str, tuple[str, Curves]]
"""key: (title, curves)"""
GENERATED_LINES: Lines = {
    "generated_labels": (
        "Labels of the tasks made: share that is right",
        (
            ("single answers", ("reward/recycle_p_right",)),
            ("first of a pair", ("reward/recycle_p_first",)),
            ("attempts to correct", ("reward/recycle_confirm_share",)),
        ),
    ),
    "generated_solved": (
        "Solve rate of the tasks drawn",
        (
            ("single answers", ("reward/judge-point/accuracy",)),
            ("pairs", ("reward/judge-pair/accuracy",)),
            ("correct an attempt", ("reward/reflect-trace/accuracy",)),
            ("correct an answer", ("reward/reflect-answer/accuracy",)),
        ),
    ),
    "generated_cache": ("Tasks made and not tried yet", (("waiting", ("reward/recycle_cache_size",)),)),
    "generated_age": (
        "Age of the tasks waiting, in updates",
        (
            ("mean", ("reward/recycle_age_mean",)),
            ("oldest", ("reward/recycle_age_max",)),
        ),
    ),
}
