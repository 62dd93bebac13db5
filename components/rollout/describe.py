"""Metrics of rollouts of any kind: counts, and shares for rollouts of text."""

from __future__ import annotations

from collections.abc import Sequence

from instar.contract import Metrics
from instar.rows import RolloutRow


def describe(rows: Sequence[RolloutRow]) -> Metrics:
    """Return the metrics. `unique_share` is the share of distinct answers: a group of equal answers teaches nothing."""
    tokens = sum(len(row.behaviour_logprobs) for row in rows)
    metrics: Metrics = {"num_rollouts": float(len(rows))}
    if any(row.kind == "continuous" for row in rows):
        return metrics
    metrics["tokens"] = float(tokens)
    if rows:
        answers = {(row.group_id, *row.token_ids) for row in rows}
        metrics["mean_length_tokens"] = tokens / len(rows)
        metrics["truncated_share"] = sum(row.truncated for row in rows) / len(rows)
        metrics["unique_share"] = len(answers) / len(rows)
        metrics["mean_logprob"] = sum(sum(row.behaviour_logprobs) for row in rows) / tokens
    return metrics
