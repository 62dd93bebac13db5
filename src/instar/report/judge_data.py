"""The policy as judge and corrector: balanced accuracy on the anchors, scores before and after reflection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instar.report.evaluations import SPLIT, Evaluated, Score

ANCHOR = "anchor"


@dataclass(frozen=True, kw_only=True)
class Reflected:
    """A split of one evaluation with reflection: who answered, scores before and after, the paired gain, calls, the gate."""

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
    """First verdicts on the policy's own greedy answers; what is undefined is None."""

    iteration: int
    precision: float | None
    recall: float | None
    f1: float | None
    balanced_accuracy: float | None
    parse_rate: float | None


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The judge after every iteration. `anchors`: one score over kinds (`arm` empty) and one per kind."""

    anchors: list[Score] = field(default_factory=list)
    own: list[Own] = field(default_factory=list)
    reflected: list[Reflected] = field(default_factory=list)
    """On the validation tasks after every iteration, then base and champion on the test splits."""
    alarms: list[tuple[int, str]] = field(default_factory=list)

    def after(self, iteration: int) -> Score | None:
        """Return the balanced accuracy over kinds after an iteration."""
        return next((s for s in self.anchors if not s.arm and s.iteration == iteration), None)

    def watched(self) -> list[Reflected]:
        """Return what reflection did on the validation tasks, by iteration."""
        return [r for r in self.reflected if r.split == SPLIT]

    def tested(self) -> list[Reflected]:
        """Return what reflection did for base and champion on the test splits."""
        return [r for r in self.reflected if r.split != SPLIT]


def judge_data(found: Sequence[Evaluated]) -> Judge | None:
    """Return what the evaluations say of the judge, or None when none of them asked it."""
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
    found = e.reflected or {}
    score = Score(
        iteration=e.iteration, split=e.split, arm="", value=found["score"], low=found["low"], high=found["high"]
    )
    return Reflected(
        who=who,
        iteration=e.iteration,
        split=e.split,
        plain=found["plain"],
        after=score,
        gain=found["gain"],
        calls=found["calls_mean"],
        to_right=found["wrong_to_right"],
        to_wrong=found["right_to_wrong"],
        open=found["gate"]["open"],
        reason=found["gate"]["reason"],
    )
