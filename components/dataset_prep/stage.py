"""Dataset preparation: tasks, logged trajectories where a recipe learns from them, and the policy the evolution starts from.

Strategies: `text` task pools per arm with a language model, `offline` trajectories of one environment by quality with a
continuous-control policy. Everything is validated before it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from instar.artifact import Policy, QualityReport, Rollouts, Source, Tasks
from instar.components.dataset_prep.config import Config
from instar.components.policy_io import name_weights, without_versions
from instar.contract import ON_REQUEST, Context, Metrics, Stage, requested


@dataclass(frozen=True, kw_only=True)
class Ins:
    """On request the evolutions that this one learns from. Nothing else: this stage begins the evolution."""

    sources: Annotated[tuple[Source, ...], ON_REQUEST] = ()


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


def reads_sources(config: Any) -> bool:
    """Return whether dataset_prep asks for other evolutions under `config`."""
    return "sources" in requested(Ins, getattr(config, "reads", ()))


STAGE = Stage("dataset_prep", Ins, Outs, Config, dataset_prep, version=8)
