"""Update: trains the policy on scored rollouts.

It writes the next policy, the trainer state that the next update continues from, and statistics of each arm for the
curriculum. Two strategies: `policy_gradient` learns from sampled answers, `sequence` from logged trajectories.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from instar.artifact import ArmStats, Batch, Code, Policy, Rollouts, Scores, Tasks, TrainerState
from instar.components.update.config import Config
from instar.contract import ON_REQUEST, Context, Metrics, Stage
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ins:
    """What an update reads.

    `trainer` is the state that the last update of this policy wrote; there is none at step 0. `reference` is needed by a KL
    term. `data` are logged trajectories, which the strategy `sequence` learns from. `update_code` is the user's own advantage or
    filter.
    """

    policy: Policy
    trainer: TrainerState | None
    batch: Batch
    rollouts: Rollouts
    scores: Scores
    reference: Policy | None
    data: Rollouts | None = None
    update_code: Annotated[Code | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The next policy, its trainer state, and the statistics that the curriculum learns from.

    `generated` are tasks that wait to be tried. They are written only by a strategy that lists them in `writes`.
    """

    policy: Policy
    trainer: TrainerState
    stats: ArmStats
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def update(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Train the policy on one batch of scored rollouts, in this process or in processes that it starts."""
    check_alone(os.environ)
    return config.run(ins, outs, ctx)


def check_alone(environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` if a launcher such as torchrun started several processes: each would train the whole batch."""
    for name in ("WORLD_SIZE", "PET_NNODES"):
        if environment.get(name, "1") not in ("", "1"):
            raise ConfigError(
                expected="one process for an update",
                found=f"{name}={environment[name]}",
                where="update",
                action="run the update without torchrun and set update.processes: the update starts its processes itself",
            )


STAGE = Stage("update", Ins, Outs, Config, update, version=6)
