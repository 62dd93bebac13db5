"""Dataset preparation: tasks, logged trajectories where a recipe learns from them, and the policy the evolution starts from.

Strategies: `text` task pools per arm with a language model, `offline` trajectories of one environment by quality with a
continuous-control policy. Everything is validated before it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from instar.artifact import Policy, QualityReport, Rollouts, Tasks
from instar.components.dataset_prep.config import Config
from instar.components.policy_io import name_weights, without_versions
from instar.contract import Context, Metrics, Stage


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Nothing: this stage begins the evolution."""


@dataclass(frozen=True, kw_only=True)
class Outs:
    """Tasks, logged trajectories (empty where none are used), the verdict on both, and the initial policy."""

    tasks: Tasks
    data: Rollouts
    quality: QualityReport
    policy: Policy


def dataset_prep(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Build and validate tasks and data, and make or fetch the initial policy."""
    metrics = config.run(ins, outs, ctx)
    without_versions(outs.policy.path)
    name_weights(outs.policy, ctx)
    return metrics


STAGE = Stage("dataset_prep", Ins, Outs, Config, dataset_prep, version=8)
