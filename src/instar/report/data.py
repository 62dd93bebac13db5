"""Collects everything that the report shows from ledger and store, as plain values. `instar.report.page` draws it.

The learning curve shows the scores on `val`, the split that the gate reads, after every iteration. `id` and `ood` are test
splits; only the base and the champion are evaluated on them. If an artifact cannot be read, the page shows a note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from instar.artifact import Tasks
from instar.contract import PERF
from instar.errors import InstarError
from instar.ledger import Entry
from instar.report.continuous_data import Continuous, continuous_data
from instar.report.costs import Cost, costs
from instar.report.evaluations import SPLIT, Evaluated, Gate, Score, Test, evaluations, gates, tests
from instar.report.judge_data import ANCHOR, Judge, judge_data
from instar.report.samples import Sample, pick_samples
from instar.status import ending
from instar.timeline import Elapsed, elapsed, inner_steps, points
from instar.workspace import Workspace

MASTERED = 0.8
"""An arm counts as mastered if its accuracy is at least this."""
ROLLOUTS = ("rollout/num_rollouts", "reward/num_rollouts")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm of the curriculum and its mean level. `trained` is False for arms that only tests use."""

    name: str
    domain: str
    level: float
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Data:
    """Everything on the page."""

    evolution: str
    opened: Mapping[str, Any]
    status: str
    reason: str
    head: str
    measure: str = "accuracy"
    """What a score means: `accuracy` of answers, or `normalised_score` of episodes."""
    inner_steps: int = 1
    arms: list[Arm] = field(default_factory=list)
    curve: list[Score] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    """Inner step -> metric -> value, for the stages of the inner loop only."""
    gates: list[Gate] = field(default_factory=list)
    ending: str = ""
    """A sentence that says which policy is champion, and why it is not the last one."""
    costs: list[Cost] = field(default_factory=list)
    elapsed: list[Elapsed] = field(default_factory=list)
    """Wall time of every iteration that has a gate, both in the stages and between them."""
    samples: list[Sample] = field(default_factory=list)
    continuous: Continuous | None = None
    """Returns, targets, logged data and episodes of a continuous-control recipe. None for all other recipes."""
    judge: Judge | None = None
    """The policy as a judge, and its reflection. None if neither is measured."""
    champion: int = 0
    """Iteration whose policy is the champion."""
    notes: list[str] = field(default_factory=list)

    @property
    def iterations(self) -> tuple[int, int]:
        """The number of iterations that were evaluated, and the number that is planned."""
        return max((a.iteration for a in self.curve), default=0), int(
            self.opened.get("recipe", {}).get("iterations", 0)
        )

    @property
    def rollouts(self) -> int:
        """Trajectories sampled for training."""
        return int(sum(next((m[n] for n in ROLLOUTS if n in m), 0.0) for m in self.steps.values()))

    def macro(self, iteration: int, split: str = SPLIT) -> Score | None:
        """Return the macro score after an iteration."""
        return next((a for a in self.curve if (a.iteration, a.split, a.arm) == (iteration, split, "")), None)

    def best(self) -> Score | None:
        """Return the highest macro score on the validation tasks. Among equal scores, return the earliest."""
        return max((a for a in self.curve if not a.arm), key=lambda a: (a.value, -a.iteration), default=None)

    def mastered(self, iteration: int) -> int:
        """Return the number of arms at `MASTERED` or above after an iteration."""
        return sum(a.value >= MASTERED for a in self.curve if a.iteration == iteration and a.split == SPLIT and a.arm)


def gather(workspace: Workspace) -> Data:
    """Read an evolution's ledger and the artifacts that the page needs."""
    ledger = workspace.ledger
    opened, closed = next(ledger.of("open"), None), ledger.closing
    notes: list[str] = []
    stages = list(ledger.of("stage"))
    evaluated = evaluations(workspace, stages, notes)
    decided = gates(ledger.of("gate"), evaluated)
    curve = [a for e in evaluated if e.split == SPLIT for a in e.scores]
    promoted = [g.iteration for g in decided if g.promoted]
    tasks, measure = _tasks(workspace, stages, notes), _measure(opened, evaluated)
    continuous = measure == "normalised_score"
    return Data(
        evolution=workspace.evolution,
        opened={**opened.body, "recipe": ledger.recipe} if opened else {},
        status="finished" if closed else "unfinished",
        reason=closed.body["reason"] if closed else _last(ledger.entries),
        head=ledger.head,
        measure=measure,
        inner_steps=inner_steps(ledger),
        arms=_arms(tasks) if tasks is not None else _arm_names(curve),
        curve=curve,
        tests=tests(evaluated),
        steps=_steps(workspace, stages, notes),
        gates=decided,
        ending=ending(list(ledger.of("gate"))),
        costs=[c for e in stages for c in costs(e)],
        elapsed=elapsed(ledger.entries),
        samples=[] if continuous else _samples(tasks, evaluated, notes),
        continuous=continuous_data(tasks, evaluated, notes) if continuous else None,
        judge=judge_data(evaluated),
        champion=promoted[-1] if promoted else 0,
        notes=notes,
    )


def _measure(opened: Entry | None, found: list[Evaluated]) -> str:
    """Return what the evaluations measure. Before the first evaluation, return what the recipe will measure."""
    if found:
        return found[-1].measure
    strategy = opened.body["recipe"].get("evaluate", {}).get("strategy") if opened else None
    return "normalised_score" if strategy == "simulate" else "accuracy"


def _samples(tasks: Any, found: list[Evaluated], notes: list[str]) -> list[Sample]:
    watched = [e for e in found if e.split == SPLIT]
    if tasks is None or not watched:
        return []
    try:
        return pick_samples(tasks, watched[0].evaluation, watched[-1].evaluation)
    except (InstarError, OSError) as error:
        notes.append(f"the answers of the first and last evaluation could not be read: {error}")
        return []


def _steps(workspace: Workspace, stages: list[Entry], notes: list[str]) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    for entry in stages:
        if entry.body["stage"] in ("dataset_prep", "evaluate"):
            continue
        try:
            for point in points(workspace, entry):
                steps[point.step].update({k: v for k, v in point.metrics.items() if not k.startswith(PERF)})
        except (InstarError, OSError) as error:
            notes.append(
                f"history of iteration {entry.body['iteration']} (entry {entry.seq}) could not be read: {error}"
            )
    return dict(sorted(steps.items()))


_COLUMNS = ("task_id", "arm", "domain", "level", "split", "prompt", "reference", "features")
"""Columns of the task table that the report reads."""


def _tasks(workspace: Workspace, stages: list[Entry], notes: list[str]) -> Any:
    """Return the task table, or None if there is none yet."""
    digest = next((e.body["outputs"]["tasks"] for e in stages if "tasks" in e.body["outputs"]), None)
    if digest is None:
        return None
    try:
        return Tasks(workspace.cas.get(digest), digest).table(_COLUMNS)
    except (InstarError, OSError) as error:
        notes.append(f"the task pools could not be read: {error}")
        return None


def _arms(tasks: Any) -> list[Arm]:
    """Return the arms in order of domain and mean level. Anchors are questions about given answers and belong to no arm."""
    tasks = tasks.filter(pc.field("split") != ANCHOR)
    pairs = tasks.group_by(["arm", "split"]).aggregate([]).to_pylist()
    trained = {pair["arm"] for pair in pairs if pair["split"] == "train"}
    groups = tasks.group_by(["arm", "domain"]).aggregate([("level", "mean")]).to_pylist()
    ordered = sorted((g["domain"], g["level_mean"], g["arm"]) for g in groups)
    return [Arm(name=arm, domain=domain, level=level, trained=arm in trained) for domain, level, arm in ordered]


def _arm_names(curve: list[Score]) -> list[Arm]:
    return [Arm(name=n, domain="", level=0.0, trained=True) for n in sorted({a.arm for a in curve if a.arm})]


def _last(entries: list[Entry]) -> str:
    if not entries:
        return "the ledger is empty"
    body = entries[-1].body
    what = " ".join(
        str(v) for v in (entries[-1].kind, body.get("stage", ""), f"of iteration {body.get('iteration', 0)}") if v
    )
    return f"last entry: {what}"
