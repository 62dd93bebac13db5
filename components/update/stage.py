"""Update: labelled rollouts in, a better policy and the state to go on from out, plus what each arm taught.

Strategies: `policy_gradient` on sampled answers, `sequence` modelling of logged trajectories.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, Tasks, TrainerState
from instar.components.update.config import Config
from instar.contract import ON_REQUEST, Context, Metrics, Stage
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The policy that acted, its trainer state (none only at step 0), what it did, the labels, the reference of a KL term,
    and the logged trajectories, if there are any."""

    policy: Policy
    trainer: TrainerState | None
    batch: Batch
    rollouts: Rollouts
    scores: Scores
    reference: Policy | None
    data: Rollouts | None = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The next policy with its trainer state, and the statistics a curriculum learns from; on request the tasks that wait."""

    policy: Policy
    trainer: TrainerState
    stats: ArmStats
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def update(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Train the policy on one batch of labelled rollouts, in this process or in those it starts."""
    check_alone(os.environ)
    return config.run(ins, outs, ctx)


def check_alone(environment: Mapping[str, str]) -> None:
    """Raise `ConfigError` in one of several processes that a launcher started: each of them would train the whole batch."""
    for name in ("WORLD_SIZE", "PET_NNODES"):
        if environment.get(name, "1") not in ("", "1"):
            raise ConfigError(
                expected="one process for an update",
                found=f"{name}={environment[name]}",
                where="update",
                action="run the update without torchrun, and set update.processes: it starts its own on one machine",
            )


STAGE = Stage("update", Ins, Outs, Config, update, version=6)
