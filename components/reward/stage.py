"""Reward: a verdict on every rollout (SEC sections 3 and 7.4).

`correct`, `format_ok` and `reward` stay separate columns, because a curriculum that sees only their sum mistakes
formatting for learning. Invariants: every rollout has exactly one score; a verifier that failed leaves the numbers
empty; truncated rollouts are scored like any other and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Policy, Rollouts, Scores, Tasks
from instar.components.reward.config import Config
from instar.contract import Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Rollouts, the tasks they attempt, and the policy whose tokenizer turns actions into text."""

    tasks: Tasks
    rollouts: Rollouts
    policy: Policy


@dataclass(frozen=True, kw_only=True)
class Outs:
    """One score per rollout, in the order of the rollouts."""

    scores: Scores


def reward(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Score all rollouts. Raises `ContractError` for unknown tasks and `RewardError` when too many verdicts failed."""
    from instar.components.reward.score import score_rollouts, summary
    from instar.components.task_table import lookup
    from instar.components.tokenizer import load_tokenizer

    rollouts = ins.rollouts.read()
    tasks = lookup(ins.tasks, {rollout.task_id for rollout in rollouts}, ctx.resident)
    scores = score_rollouts(tasks, rollouts, load_tokenizer(ins.policy).decode, config)
    outs.scores.write(scores)
    return summary(tasks, rollouts, scores)


STAGE = Stage("reward", Ins, Outs, Config, reward)
