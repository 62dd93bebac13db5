"""What a page about a continuous-control recipe shows in addition to scores: returns, the logged data and single episodes.

Returns are computed from scores. A score s stands for the return random + s (expert - random). Both reference returns are in
the tasks. Tasks of the pool `val` ask the policy for the target return, tasks of the pool `probe` for other returns.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow.compute as pc

from instar.artifact import Evaluation
from instar.errors import InstarError
from instar.report.evaluations import SPLIT, Evaluated, Score

PROBE = "probe"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A return that policies are asked for, and the reference returns of its environment.

    A target with `probe` has no influence on the gate.
    """

    arm: str
    asked: float
    probe: bool
    random: float
    expert: float
    label: str

    def reached(self, score: float) -> float:
        """Return the undiscounted return that a score stands for."""
        return self.random + score * (self.expert - self.random)


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The logged episodes of one arm: the number of steps of all, and the return of each."""

    arm: str
    steps: int
    returns: list[float]

    @property
    def mean(self) -> float:
        """Mean return."""
        return sum(self.returns) / len(self.returns)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One start state with the returns of the first and of the last policy."""

    task_id: str
    seed: int
    asked: float
    before: float
    after: float
    length: int
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """Everything about continuous control on the page.

    `targets` has the target first, and then the probes from the highest asked return to the lowest. `tiers` go from the worst
    data to the best.
    """

    targets: list[Target] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    """Score of every target after every iteration; `arm` names the target."""
    tiers: list[Tier] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)

    def of(self, target: Target) -> list[Score]:
        """Return the scores at a target by iteration."""
        mine = [s for s in self.scores if s.arm == target.arm and (s.split == PROBE) == target.probe]
        return sorted(mine, key=lambda s: s.iteration)

    def gap(self) -> float | None:
        """Return the last score at the target minus the mean of the last scores at the probes, or None if one is missing."""
        latest: dict[bool, list[float]] = {False: [], True: []}
        for target in self.targets:
            scores = self.of(target)
            latest[target.probe] += [scores[-1].value] if scores else []
        means = [sum(v) / len(v) for v in latest.values() if v]
        return means[0] - means[1] if len(means) == 2 else None


def continuous_data(tasks: Any, found: Sequence[Evaluated], notes: list[str]) -> Continuous:
    """Return what tasks and evaluations say about continuous control. `tasks` is the task table, or None if there is none."""
    watched = [e for e in found if e.split == SPLIT]
    scores = [s for e in watched for s in (*(a for a in e.scores if a.arm), *e.probes)]
    if tasks is None:
        return Continuous(scores=scores)
    episodes: list[Episode] = []
    if watched:
        try:
            episodes = pair_episodes(tasks, watched[0].evaluation, watched[-1].evaluation)
        except (InstarError, OSError) as error:
            notes.append(f"the episodes of the first and last evaluation could not be read: {error}")
    return Continuous(targets=targets(tasks), scores=scores, tiers=tiers(tasks), episodes=episodes)


def targets(tasks: Any) -> list[Target]:
    """Return the returns that the policies are asked for, from the evaluation tasks."""
    by_arm: dict[tuple[str, bool], Target] = {}
    table = tasks.filter(pc.field("split").isin([SPLIT, PROBE])).select(["arm", "split", "features", "reference"])
    for row in table.to_pylist():
        key = row["arm"], row["split"] == PROBE
        if key not in by_arm:
            by_arm[key] = _target(row)
    return sorted(by_arm.values(), key=lambda t: (t.probe, -t.asked))


def _target(row: dict[str, str]) -> Target:
    asked, reference = json.loads(row["features"]), json.loads(row["reference"])
    return Target(
        arm=row["arm"],
        asked=float(asked["target_return"]),
        probe=row["split"] == PROBE,
        random=float(reference["random"]),
        expert=float(reference["expert"]),
        label=str(reference.get("source", "")),
    )


def tiers(tasks: Any) -> list[Tier]:
    """Return the logged data by arm, from the training tasks. Each one is a slice, and its level is the episode's return."""
    steps: dict[str, int] = defaultdict(int)
    returns: dict[str, dict[str, float]] = defaultdict(dict)
    table = tasks.filter(pc.field("split") == "train").select(["arm", "level", "features"])
    for row in table.to_pylist():
        bounds = json.loads(row["features"])
        steps[row["arm"]] += int(bounds["end"]) - int(bounds["start"])
        returns[row["arm"]][bounds["episode"]] = row["level"]
    unsorted = [Tier(arm=arm, steps=steps[arm], returns=sorted(episodes.values())) for arm, episodes in returns.items()]
    return sorted(unsorted, key=lambda tier: (tier.mean, tier.arm))


def pair_episodes(tasks: Any, first: Evaluation, last: Evaluation, split: str = SPLIT) -> list[Episode]:
    """Return the episodes of `split` that both policies have, in order of the return of the last policy, lowest first."""
    before, after = _rows(first, split), _rows(last, split)
    table = tasks.filter(pc.field("split") == split).select(["task_id", "arm", "split", "features", "reference"])
    out = []
    for row in table.to_pylist():
        name = row["task_id"]
        if name not in before or name not in after:
            continue
        target, score = _target(row), after[name]["score"]
        out.append(
            Episode(
                task_id=name,
                seed=int(json.loads(row["features"])["reset_seed"]),
                asked=target.asked,
                before=target.reached(before[name]["score"]),
                after=target.reached(score),
                length=after[name]["length"],
                truncated=after[name]["truncated"],
            )
        )
    return sorted(out, key=lambda e: (e.after, e.task_id))


def thin(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spaced. The first and the last item are always among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _rows(evaluation: Evaluation, split: str) -> dict[str, dict[str, Any]]:
    """Return task -> row of every episode that has a score."""
    table = evaluation.table().filter((pc.field("split") == split) & pc.field("score").is_valid())
    return {row["task_id"]: row for row in table.select(["task_id", "score", "length", "truncated"]).to_pylist()}
