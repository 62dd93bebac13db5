"""Reward: every rollout gets one score.

There are two strategies. `verify` compares answers with references (SEC sections 3 and 7.4). `refine` labels logged windows in
hindsight (Decision Mamba section 4).

`correct`, `format_ok` and `reward` are separate columns. A curriculum that sees only their sum would mistake formatting for
learning. What always holds:

- Every rollout has exactly one score.
- A verifier that failed leaves the numbers empty.
- Truncated rollouts are scored like any other, and counted.
- Rules score every kind of task, also tasks of judging. What a policy thinks about an answer is never a reward.

With `recycle`, attempts become tasks of later steps (SPARK section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from instar.artifact import Code, Policy, Rollouts, Scores, Tasks
from instar.components.reward.config import Config
from instar.contract import ON_REQUEST, Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The rollouts, the tasks that they attempt, and the policy that acted.

    Where they exist, also logged trajectories (`data`) and the tasks that the evolution made (`generated`). On request: the model
    and the code that score answers.
    """

    tasks: Tasks
    rollouts: Rollouts
    policy: Policy
    data: Rollouts | None = None
    generated: Tasks | None = None
    scorer: Annotated[Policy | None, ON_REQUEST] = None
    reward_code: Annotated[Code | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """One score per rollout, in their order. With `recycle`, also the generated tasks that wait to be tried, oldest first."""

    scores: Scores
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def reward(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Score all rollouts. Raises `ContractError` for unknown tasks and `RewardError` when too many verdicts failed."""
    return config.run(ins, outs, ctx)


STAGE = Stage("reward", Ins, Outs, Config, reward, version=8)
