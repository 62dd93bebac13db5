"""What `open` and `gate` hand to the stages after them: the loop's state as pointers, one per artifact.

A `Lineage` is how the loop holds it; `Pointers` is the same as flat ports, since a Kubeflow task has no nested ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instar.artifact import ArmStats, Artifact, CurriculumState, Evaluation, Policy, Rollouts, Tasks, TrainerState

if TYPE_CHECKING:
    from instar.pipelines.evolution import Lineage


@dataclass(frozen=True, kw_only=True)
class Pointers:
    """The state that goes on, the champion, and its evaluations. The optional ones are absent before the first step."""

    tasks: Tasks
    data: Rollouts
    policy: Policy
    reference: Policy
    trainer: TrainerState | None
    curriculum: CurriculumState | None
    stats: ArmStats | None
    derived: Tasks | None
    champion_policy: Policy
    champion_trainer: TrainerState | None
    best: Evaluation
    base_test: Evaluation


def pointers_of(lineage: Lineage) -> dict[str, Artifact | None]:
    """Return the ports of a lineage."""
    state = {f.name: getattr(lineage.state, f.name) for f in dataclasses.fields(lineage.state)}
    champion = {"champion_policy": lineage.champion.policy, "champion_trainer": lineage.champion.trainer}
    return {**state, **champion, "best": lineage.best, "base_test": lineage.base_test}


def lineage_of(pointers: Pointers, iteration: int) -> Lineage:
    """Return the lineage of ports."""
    from instar.pipelines.evolution import Lineage, State

    state = State(**{f.name: getattr(pointers, f.name) for f in dataclasses.fields(State)})
    champion = dataclasses.replace(state, policy=pointers.champion_policy, trainer=pointers.champion_trainer)
    return Lineage(
        iteration=iteration, state=state, champion=champion, best=pointers.best, base_test=pointers.base_test
    )
