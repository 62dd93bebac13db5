"""Reward: a label on every rollout.

Strategies: `verify` answers (SEC sections 3 and 7.4), `refine` logged windows in hindsight (Decision Mamba section 4).
`correct`, `format_ok` and `reward` stay separate columns, because a curriculum that sees only their sum mistakes
formatting for learning. Invariants: every rollout has exactly one score; a verifier that failed leaves the numbers
empty; truncated rollouts are scored like any other and counted. Rules score every kind of task, those of judging included:
what a policy thinks of an answer is never a reward. With `recycle`, attempts become tasks of later steps (SPARK section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from instar.artifact import Policy, Rollouts, Scores, Tasks
from instar.components.reward.config import Config
from instar.contract import ON_REQUEST, Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Rollouts, the tasks they attempt, the policy that acted; logged trajectories and tasks made by the evolution, if there are
    any."""

    tasks: Tasks
    rollouts: Rollouts
    policy: Policy
    data: Rollouts | None = None
    generated: Tasks | None = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """One score per rollout, in the order of the rollouts; with `recycle` the tasks made and not yet tried, oldest first."""

    scores: Scores
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def reward(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Score all rollouts. Raises `ContractError` for unknown tasks and `RewardError` when too many verdicts failed."""
    return config.run(ins, outs, ctx)


STAGE = Stage("reward", Ins, Outs, Config, reward, version=8)
