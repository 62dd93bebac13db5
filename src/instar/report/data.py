"""What the report shows, gathered from ledger and store as plain values. Nothing here draws.

The learning curve is the split that the gate reads (`val`) after every iteration; `id` and `ood` are test splits,
evaluated on the base and on the champion. Artifacts that cannot be read leave a note on the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from instar.artifact import Evaluation, Tasks
from instar.contract import PERF
from instar.errors import InstarError
from instar.ledger import Entry
from instar.report.samples import Sample, pick_samples
from instar.timeline import Elapsed, elapsed, points
from instar.workspace import Workspace

SPLIT = "val"
MASTERED = 0.8
"""Accuracy from which an arm counts as mastered."""
ROLLOUTS = ("rollout/num_rollouts", "reward/num_rollouts")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm of the curriculum. `trained` is False for arms that only tests use."""

    name: str
    domain: str
    level: float
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """An accuracy with its interval; `arm` is empty for the macro mean over arms."""

    iteration: int
    split: str
    arm: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate decision on the policy of an iteration."""

    iteration: int
    action: str
    promoted: bool
    reason: str
    policy: str
    evaluation: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of one stage (or `overhead`: reading inputs and committing outputs) in one iteration."""

    iteration: int
    stage: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Data:
    """Everything on the page."""

    evolution: str
    opened: Mapping[str, Any]
    status: str
    reason: str
    head: str
    arms: list[Arm] = field(default_factory=list)
    curve: list[Accuracy] = field(default_factory=list)
    tests: list[tuple[Accuracy, Accuracy, Mapping[str, Any] | None]] = field(default_factory=list)
    """Per test split: base, champion, and the paired comparison of the two."""
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    """Inner step -> metric -> value, learning stages only."""
    gates: list[Gate] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    elapsed: list[Elapsed] = field(default_factory=list)
    """Wall time of every iteration that has a gate, between the stages as well as in them."""
    samples: list[Sample] = field(default_factory=list)
    champion: int = 0
    """Iteration whose policy is the champion."""
    notes: list[str] = field(default_factory=list)

    @property
    def iterations(self) -> tuple[int, int]:
        """Iterations evaluated, and planned."""
        return max((a.iteration for a in self.curve), default=0), int(
            self.opened.get("recipe", {}).get("iterations", 0)
        )

    @property
    def rollouts(self) -> int:
        """Trajectories sampled for training."""
        return int(sum(next((m[n] for n in ROLLOUTS if n in m), 0.0) for m in self.steps.values()))

    def macro(self, iteration: int, split: str = SPLIT) -> Accuracy | None:
        """Return the macro accuracy after an iteration."""
        return next((a for a in self.curve if (a.iteration, a.split, a.arm) == (iteration, split, "")), None)

    def mastered(self, iteration: int) -> int:
        """Return the number of arms at `MASTERED` or above after an iteration."""
        return sum(a.value >= MASTERED for a in self.curve if a.iteration == iteration and a.split == SPLIT and a.arm)


def gather(workspace: Workspace) -> Data:
    """Read an evolution's ledger and the artifacts that the page needs."""
    ledger = workspace.ledger
    opened, closed = next(ledger.of("open"), None), next(ledger.of("close"), None)
    notes: list[str] = []
    stages = list(ledger.of("stage"))
    evaluations = _evaluations(workspace, stages, notes)
    gates = _gates(ledger.of("gate"), evaluations)
    curve = [a for e in evaluations if e.split == SPLIT for a in e.accuracies]
    promoted = [g.iteration for g in gates if g.promoted]
    tasks = _tasks(workspace, stages, notes)
    samples: list[Sample] = []
    watched = [e for e in evaluations if e.split == SPLIT]
    if tasks is not None and watched:
        try:
            samples = pick_samples(tasks, watched[0].evaluation, watched[-1].evaluation)
        except (InstarError, OSError) as error:
            notes.append(f"the answers of the first and last evaluation could not be read: {error}")
    return Data(
        evolution=workspace.evolution,
        opened=opened.body if opened else {},
        status="finished" if closed else "unfinished",
        reason=closed.body["reason"] if closed else _last(ledger.entries),
        head=ledger.head,
        arms=_arms(tasks) if tasks is not None else _arm_names(curve),
        curve=curve,
        tests=_tests(evaluations),
        steps=_steps(workspace, stages, notes),
        gates=gates,
        costs=[c for e in stages for c in _costs(e)],
        elapsed=elapsed(ledger.entries),
        samples=samples,
        champion=promoted[-1] if promoted else 0,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    iteration: int
    split: str
    digest: str
    policy: str
    evaluation: Evaluation
    accuracies: list[Accuracy]
    comparison: Mapping[str, Any] | None


def _evaluations(workspace: Workspace, stages: list[Entry], notes: list[str]) -> list[_Evaluated]:
    """Return one item per evaluation and split, in ledger order."""
    found = []
    for entry in stages:
        digest = entry.body["outputs"].get("evaluation")
        if digest is None:
            continue
        try:
            evaluation = Evaluation(workspace.cas.get(digest), digest)
            splits = evaluation.read_json("summary.json")["splits"]
        except (InstarError, OSError) as error:
            notes.append(
                f"evaluation of iteration {entry.body['iteration']} (entry {entry.seq}) could not be read: {error}"
            )
            continue
        k = int(entry.body["iteration"])
        for split, values in splits.items():
            rows = {"": values, **values["arms"]}
            accuracies = [
                Accuracy(iteration=k, split=split, arm=a, value=v["accuracy"], low=v["low"], high=v["high"])
                for a, v in rows.items()
            ]
            found.append(
                _Evaluated(
                    iteration=k,
                    split=split,
                    digest=digest,
                    policy=entry.body["inputs"]["policy"],
                    evaluation=evaluation,
                    accuracies=accuracies,
                    comparison=values.get("comparison"),
                )
            )
    return found


def _tests(evaluations: list[_Evaluated]) -> list[tuple[Accuracy, Accuracy, Mapping[str, Any] | None]]:
    """Return base and champion per test split, from its first and last evaluation."""
    by_split: dict[str, list[_Evaluated]] = defaultdict(list)
    for found in evaluations:
        if found.split != SPLIT:
            by_split[found.split].append(found)
    return [
        (runs[0].accuracies[0], runs[-1].accuracies[0], runs[-1].comparison)
        for runs in by_split.values()
        if len(runs) > 1
    ]


def _gates(entries: Any, evaluations: list[_Evaluated]) -> list[Gate]:
    policies = {e.digest: e.policy for e in evaluations}
    return [
        Gate(
            iteration=int(entry.body["iteration"]),
            action=entry.body["decision"]["action"],
            promoted=bool(entry.body["decision"]["promote"]),
            reason=entry.body["decision"]["reason"],
            policy=policies.get(entry.body["evaluation"], ""),
            evaluation=entry.body["evaluation"],
        )
        for entry in entries
    ]


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


def _costs(entry: Entry) -> list[Cost]:
    """Return the seconds of an entry by stage; what no stage function used is overhead."""
    time, iteration, stage = entry.time, int(entry.body["iteration"]), entry.body["stage"]
    wall, cpu = float(time.get("perf/wall_s", 0.0)), float(time.get("perf/cpu_s", 0.0))
    parts = [Cost(iteration=iteration, stage=stage, wall_s=wall, cpu_s=cpu)]
    if stage == "fused":
        names = sorted(
            {n.split("/")[1] for n in time if n.startswith(PERF) and n.count("/") == 2 and n.endswith("/wall_s")}
        )
        parts = [
            Cost(
                iteration=iteration,
                stage=n,
                wall_s=float(time[f"perf/{n}/wall_s"]),
                cpu_s=float(time.get(f"perf/{n}/cpu_s", 0)),
            )
            for n in names
        ]
    whole = float(time.get("ended", 0.0)) - float(time.get("started", 0.0))
    rest = max(0.0, whole - sum(p.wall_s for p in parts))
    return [
        *parts,
        Cost(iteration=iteration, stage="overhead", wall_s=rest, cpu_s=max(0.0, cpu - sum(p.cpu_s for p in parts))),
    ]


def _tasks(workspace: Workspace, stages: list[Entry], notes: list[str]) -> Any:
    """Return the task table, or None when there is none yet."""
    digest = next((e.body["outputs"]["tasks"] for e in stages if "tasks" in e.body["outputs"]), None)
    if digest is None:
        return None
    try:
        return Tasks(workspace.cas.get(digest), digest).table()
    except (InstarError, OSError) as error:
        notes.append(f"the task pools could not be read: {error}")
        return None


def _arms(tasks: Any) -> list[Arm]:
    """Return the arms by domain and level."""
    groups = tasks.group_by(["arm", "domain", "level", "split"]).aggregate([]).to_pylist()
    trained = {g["arm"] for g in groups if g["split"] == "train"}
    unique = {(g["domain"], g["level"], g["arm"]) for g in groups}
    return [Arm(name=arm, domain=domain, level=level, trained=arm in trained) for domain, level, arm in sorted(unique)]


def _arm_names(curve: list[Accuracy]) -> list[Arm]:
    return [Arm(name=n, domain="", level=0.0, trained=True) for n in sorted({a.arm for a in curve if a.arm})]


def _last(entries: list[Entry]) -> str:
    if not entries:
        return "the ledger is empty"
    body = entries[-1].body
    what = " ".join(
        str(v) for v in (entries[-1].kind, body.get("stage", ""), f"of iteration {body.get('iteration', 0)}") if v
    )
    return f"last entry: {what}"
