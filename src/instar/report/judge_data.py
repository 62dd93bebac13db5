"""The policy as a judge: its balanced accuracy on the anchors. And reflection: scores before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instar.report.evaluations import SPLIT, Evaluated, Score

ANCHOR = "anchor"


@dataclass(frozen=True, kw_only=True)
class Reflected:
    """Reflection on one split of an evaluation: who answered, scores before and after, the paired gain, and its cost in calls."""

    who: str
    iteration: int
    split: str
    plain: float
    after: Score
    gain: Mapping[str, float]
    calls: float
    to_right: int
    to_wrong: int
    open: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Own:
    """How well the policy judges its own greedy answers by its first verdict. An undefined value is None."""

    iteration: int
    precision: float | None
    recall: float | None
    f1: float | None
    balanced_accuracy: float | None
    parse_rate: float | None


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The judge after every iteration. `anchors` has one score over all kinds, with an empty `arm`, and one per kind."""

    anchors: list[Score] = field(default_factory=list)
    own: list[Own] = field(default_factory=list)
    reflected: list[Reflected] = field(default_factory=list)
    """First the validation tasks after every iteration, then base and champion on the test splits."""
    alarms: list[tuple[int, str]] = field(default_factory=list)

    def after(self, iteration: int) -> Score | None:
        """Return the balanced accuracy over all kinds of anchors after an iteration."""
        return next((s for s in self.anchors if not s.arm and s.iteration == iteration), None)

    def watched(self) -> list[Reflected]:
        """Return the effect of reflection on the validation tasks, by iteration."""
        return [r for r in self.reflected if r.split == SPLIT]

    def tested(self) -> list[Reflected]:
        """Return the effect of reflection for base and champion on the test splits."""
        return [r for r in self.reflected if r.split != SPLIT]


def judge_data(found: Sequence[Evaluated]) -> Judge | None:
    """Return what the evaluations say about the policy as a judge, or None if no evaluation asked it to judge."""
    asked = [e for e in found if e.judge is not None]
    if not asked:
        return None
    watched = [e for e in asked if e.split == SPLIT]
    first: dict[str, str] = {}
    for evaluated in asked:
        first.setdefault(evaluated.split, evaluated.digest)
    return Judge(
        anchors=[s for e in watched for s in _anchors(e.iteration, e.judge or {})],
        own=[_own(e.iteration, e.own) for e in watched if e.own],
        reflected=[
            _reflected(e, "" if e.split == SPLIT else "base" if e.digest == first[e.split] else "champion")
            for e in asked
            if e.reflected
        ],
        alarms=[(e.iteration, str(a["reason"])) for e in watched for a in e.alarms],
    )


def _anchors(iteration: int, judge: Mapping[str, Any]) -> list[Score]:
    kinds = {"": judge, **judge["kinds"]}
    return [
        Score(iteration=iteration, split=ANCHOR, arm=kind, value=v["balanced_accuracy"], low=v["low"], high=v["high"])
        for kind, v in kinds.items()
        if v["balanced_accuracy"] is not None
    ]


def _own(iteration: int, own: Mapping[str, Any]) -> Own:
    names = ("precision", "recall", "f1", "balanced_accuracy", "parse_rate")
    return Own(iteration=iteration, **{name: own[name] for name in names})


def _reflected(e: Evaluated, who: str) -> Reflected:
    reflected = e.reflected or {}
    score = Score(
        iteration=e.iteration,
        split=e.split,
        arm="",
        value=reflected["score"],
        low=reflected["low"],
        high=reflected["high"],
    )
    return Reflected(
        who=who,
        iteration=e.iteration,
        split=e.split,
        plain=reflected["plain"],
        after=score,
        gain=reflected["gain"],
        calls=reflected["calls_mean"],
        to_right=reflected["wrong_to_right"],
        to_wrong=reflected["right_to_wrong"],
        open=reflected["gate"]["open"],
        reason=reflected["gate"]["reason"],
    )
