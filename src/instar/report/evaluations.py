"""Evaluations and gate decisions of an evolution, read from ledger and store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from instar.artifact import Evaluation
from instar.errors import InstarError
from instar.ledger import Entry
from instar.workspace import Workspace

SPLIT = "val"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score with its interval. `arm` is empty for the macro mean over arms."""

    iteration: int
    split: str
    arm: str
    value: float
    low: float
    high: float


Test: TypeAlias = tuple[Score, Score, Mapping[str, Any] | None]
"""The result on one test split: score of the base, score of the champion, and their paired comparison."""


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
class Evaluated:
    """One split of an evaluation. `probes` are scores at other target returns; they belong to no split."""

    iteration: int
    split: str
    digest: str
    policy: str
    measure: str
    evaluation: Evaluation
    scores: list[Score]
    comparison: Mapping[str, Any] | None
    probes: list[Score] = field(default_factory=list)
    judge: Mapping[str, Any] | None = None
    """How well the policy judged the anchors."""
    own: Mapping[str, Any] | None = None
    reflected: Mapping[str, Any] | None = None
    alarms: tuple[Mapping[str, Any], ...] = ()


def evaluations(workspace: Workspace, stages: list[Entry], notes: list[str]) -> list[Evaluated]:
    """Return one item per evaluation and split, in ledger order. An evaluation that cannot be read becomes a note."""
    evaluated: list[Evaluated] = []
    for entry in stages:
        digest = entry.body["outputs"].get("evaluation")
        if digest is None:
            continue
        try:
            evaluation = Evaluation(workspace.cas.get(digest), digest)
            summary = evaluation.read_json("summary.json")
        except (InstarError, OSError) as error:
            notes.append(
                f"evaluation of iteration {entry.body['iteration']} (entry {entry.seq}) could not be read: {error}"
            )
            continue
        evaluated += _splits(entry, evaluation, summary)
    return evaluated


def _splits(entry: Entry, evaluation: Evaluation, summary: Mapping[str, Any]) -> list[Evaluated]:
    k = int(entry.body["iteration"])
    probes = [s for split, values in summary.get("probes", {}).items() for s in _scores(k, split, values["arms"])]
    return [
        Evaluated(
            iteration=k,
            split=split,
            digest=evaluation.digest,
            policy=entry.body["inputs"]["policy"],
            measure=summary.get("measure", "accuracy"),
            evaluation=evaluation,
            scores=_scores(k, split, {"": values, **values["arms"]}),
            comparison=values.get("comparison"),
            probes=probes,
            judge=summary.get("judge"),
            own=values.get("own"),
            reflected=values.get("reflected"),
            alarms=tuple(summary.get("alarms") or ()),
        )
        for split, values in summary["splits"].items()
    ]


def _scores(k: int, split: str, arms: Mapping[str, Mapping[str, float]]) -> list[Score]:
    return [
        Score(iteration=k, split=split, arm=arm, value=v["score"], low=v["low"], high=v["high"])
        for arm, v in arms.items()
    ]


def tests(found: list[Evaluated]) -> list[Test]:
    """Return base and champion for each test split, from the first and the last evaluation of the split.

    The split `ood`, on which the policy was never trained, comes first.
    """
    by_split: dict[str, list[Evaluated]] = defaultdict(list)
    for evaluated in found:
        if evaluated.split != SPLIT:
            by_split[evaluated.split].append(evaluated)
    return [
        (runs[0].scores[0], runs[-1].scores[0], runs[-1].comparison)
        for _, runs in sorted(by_split.items(), reverse=True)
        if len(runs) > 1
    ]


def gates(entries: Iterable[Entry], found: list[Evaluated]) -> list[Gate]:
    """Return the gate decisions in ledger order."""
    policies = {e.digest: e.policy for e in found}
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
