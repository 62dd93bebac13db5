"""Dataset preparation: it makes the tasks, the logged trajectories if the recipe learns from such, and the initial policy.

There are two strategies. `text` makes pools of text tasks, for example sums, and a language model. `offline` reads logged
episodes of one environment, sorts them into arms by quality, and makes a continuous-control policy. Before the stage succeeds,
it checks every row of the tasks and of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from instar.artifact import Code, ImportedTasks, Policy, QualityReport, Rollouts, Source, Tasks
from instar.components.dataset_prep.config import Config
from instar.components.policy_io import name_weights, without_versions
from instar.contract import ON_REQUEST, Context, Metrics, Stage, requested


@dataclass(frozen=True, kw_only=True)
class Ins:
    """This stage begins the evolution, so it has no inputs of its own.

    A strategy can request other evolutions to learn from (`sources`), and what the user brings: tasks, a first policy, and the code
    and the model that score answers.
    """

    sources: Annotated[tuple[Source, ...], ON_REQUEST] = ()
    imported: Annotated[ImportedTasks | None, ON_REQUEST] = None
    initial: Annotated[Policy | None, ON_REQUEST] = None
    scorer: Annotated[Policy | None, ON_REQUEST] = None
    reward_code: Annotated[Code | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The tasks, the logged trajectories (no rows for `text`), the result of the checks, and the initial policy."""

    tasks: Tasks
    data: Rollouts
    quality: QualityReport
    policy: Policy


def dataset_prep(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Make and check tasks and data, and make or fetch the initial policy."""
    metrics = config.run(ins, outs, ctx)
    without_versions(outs.policy.path)
    name_weights(outs.policy, ctx)
    return metrics


def reads_sources(config: Any) -> bool:
    """Return whether this configuration requests other evolutions."""
    return "sources" in requested(Ins, getattr(config, "reads", ()))


STAGE = Stage("dataset_prep", Ins, Outs, Config, dataset_prep, version=8)
