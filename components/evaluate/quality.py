"""How good verdicts are, by formulas that can be checked by hand.

Verdicts on the policy's own answers are compared with the verifier. The positive class is "my answer is right".

Verdicts on anchors are compared with their labels. A unit is a question that is asked twice, so that either verdict is right
once. The mean over units is the balanced accuracy. It is exactly .5 for a judge that always says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instar.components.evaluate.intervals import Interval, stratified_mean

BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """A verdict on an answer: the truth, what the judge said (None if it cannot be read), and the probability of what it said."""

    right: bool
    says: bool | None
    probability: float | None

    @property
    def belief(self) -> float | None:
        """The probability that the answer is right, as the judge gives it."""
        if self.says is None or self.probability is None:
            return None
        return self.probability if self.says else 1.0 - self.probability


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchored:
    """A verdict on an anchor. The first label is Yes, or the first of two answers.

    `first` says whether the first label is right. `says` is whether the judge named it, or None if its verdict cannot be read.
    """

    kind: str
    unit: str
    first: bool
    says: bool | None
    score: float | None
    """1 for the right verdict, 0 for a wrong or unreadable one, None when the verifier failed."""


def own_quality(opinions: Sequence[Opinion], confidence: float) -> dict[str, Any]:
    """Return precision, recall, F1, balanced accuracy with its interval, parse rate and calibration. Undefined numbers are None.

    An unreadable verdict does not accept its answer. In the balanced accuracy it counts as a mistake, whether the answer is
    right or wrong. `brier` and `ece` rate the probability that the answer is right, over readable verdicts. `ece` has 10 equal
    bins, which are weighted by their counts.
    """
    accepted, right = sum(o.says is True for o in opinions), sum(o.right for o in opinions)
    hits = sum(o.right and o.says is True for o in opinions)
    precision, recall = _share(hits, accepted), _share(hits, right)
    classes = [np.array([float(o.says is side) for o in opinions if o.right is side]) for side in (True, False)]
    interval = None
    if min(c.size for c in classes) >= 2:
        interval = stratified_mean(classes, confidence)
    means = [float(c.mean()) for c in classes if c.size]
    return {
        "num": len(opinions),
        "num_right": right,
        "num_accepted": accepted,
        "parse_rate": _share(sum(o.says is not None for o in opinions), len(opinions)),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (accepted + right) if accepted + right else None,
        "balanced_accuracy": sum(means) / 2 if len(means) == 2 else None,
        "low": max(0.0, interval.low) if interval else None,
        "high": min(1.0, interval.high) if interval else None,
        **_calibration(opinions),
    }


def _calibration(opinions: Sequence[Opinion]) -> dict[str, float | None]:
    pairs = np.array([(o.belief, o.right) for o in opinions if o.belief is not None], dtype=np.float64).reshape(-1, 2)
    if not len(pairs):
        return {"brier": None, "ece": None}
    belief, right = pairs.T
    bins = np.minimum((belief * BINS).astype(int), BINS - 1)
    gaps = [abs(float((belief[bins == b] - right[bins == b]).sum())) for b in range(BINS)]
    return {"brier": float(((belief - right) ** 2).mean()), "ece": sum(gaps) / len(pairs)}


def units(anchored: Sequence[Anchored]) -> dict[str, dict[str, float]]:
    """Return kind -> unit -> mean score of its two questions. Units without two verdicts are left out."""
    scores: dict[str, dict[str, list[float | None]]] = {}
    for item in anchored:
        scores.setdefault(item.kind, {}).setdefault(item.unit, []).append(item.score)
    means = {
        kind: {unit: sum(map(float, s)) / 2 for unit, s in values.items() if len(s) == 2 and None not in s}  # type: ignore[arg-type]
        for kind, values in scores.items()
    }
    return {kind: values for kind, values in means.items() if len(values) >= 2}


def anchor_quality(anchored: Sequence[Anchored], confidence: float) -> dict[str, Any]:
    """Return the balanced accuracy with its interval, over all kinds and for each, the parse rate, and numbers that show a bias.

    - `bias` is the share of first labels (Yes, or A) among the readable verdicts, minus the share of second labels. Both labels are
      right equally often, so a judge without a preference has 0. For pairs this is the position bias.
    - `consistency` is the share of units that were right twice or wrong twice, among those with two readable verdicts. For a pair
      that means that the judge names the same answer in both orders.
    - The balanced accuracy is None when no kind has two complete units.
    """
    means = units(anchored)
    out: dict[str, Any] = {"kinds": {}, "parse_rate": _share(sum(a.says is not None for a in anchored), len(anchored))}
    for kind, values in sorted(means.items()):
        mine = [a for a in anchored if a.kind == kind]
        interval = stratified_mean([column(values)], confidence)
        out["kinds"][kind] = {**_numbers(interval), "num_units": len(values), **_sides(mine)}
    both = stratified_mean([column(v) for _, v in sorted(means.items())], confidence) if means else None
    return {**out, **(_numbers(both) if both else dict.fromkeys(("balanced_accuracy", "low", "high")))}


def _sides(anchored: Sequence[Anchored]) -> dict[str, float | None]:
    readable = [a for a in anchored if a.says is not None]
    by_unit: dict[str, list[bool]] = {}
    for item in readable:
        by_unit.setdefault(item.unit, []).append(item.says == item.first)
    twice = [said for said in by_unit.values() if len(said) == 2]
    return {
        "parse_rate": _share(len(readable), len(anchored)),
        "bias": _share(sum(1 if a.says else -1 for a in readable), len(readable)),
        "recall_first": _share(sum(a.says is True for a in anchored if a.first), sum(a.first for a in anchored)),
        "recall_second": _share(
            sum(a.says is False for a in anchored if not a.first), sum(not a.first for a in anchored)
        ),
        "consistency": _share(sum(one == other for one, other in twice), len(twice)),
    }


def column(values: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the values in order of their names."""
    return np.array([values[name] for name in sorted(values)], dtype=np.float64)


def _numbers(interval: Interval) -> dict[str, float]:
    """Return the estimate and its interval, cut to [0, 1]. With few units it may reach beyond the range of a share."""
    return {
        "balanced_accuracy": interval.estimate,
        "low": max(0.0, interval.low),
        "high": min(1.0, interval.high),
    }


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
