"""Functions on probabilities of arms, shared by the strategies. Shapes: K arms; values and probabilities [K], float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from instar.components.curriculum.base_config import require

Vector = NDArray[np.float64]


def softmax(values: Vector, tau: float) -> Vector:
    """Return exp(values / tau) / sum. The maximum is subtracted first, so that no exponential overflows."""
    weights: Vector = np.exp((values - values.max()) / tau)
    return normalise(weights)


def normalise(weights: Vector) -> Vector:
    """Return weights / sum, or the uniform distribution when all weights are 0."""
    total = weights.sum()
    return weights / total if total > 0.0 else np.full(weights.shape, 1.0 / weights.size)


def with_floor(probabilities: Vector, floor: float) -> Vector:
    """Return floor + (1 - K floor) P, so that every arm has at least `floor`. K floor > 1 is a `ConfigError`."""
    count = probabilities.size
    require(count * floor <= 1.0, "floor", f"at most 1/{count} with {count} arms", floor)
    return floor + (1.0 - count * floor) * probabilities


def entropy(probabilities: Vector) -> float:
    """Return -sum P log P in nats, in [0, log K]."""
    positive = probabilities[probabilities > 0.0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def draw_arms(
    names: Sequence[str], probabilities: Vector, num: int, generator: np.random.Generator
) -> list[tuple[str, float]]:
    """Draw `num` arms independently, by the inverse of the cumulative distribution. Each comes with its probability, at most 1."""
    edges = np.cumsum(probabilities)
    picks = np.searchsorted(edges, generator.random(num) * edges[-1], side="right")
    capped = [min(int(i), len(names) - 1) for i in picks]
    return [(names[i], min(1.0, float(probabilities[i]))) for i in capped]


def describe(names: Sequence[str], probabilities: Vector, values: Vector | None = None) -> dict[str, float]:
    """Return the metrics of a strategy: the probability of each arm, its value if the strategy has values, and the entropy of P in
    nats."""
    out = {"entropy": entropy(probabilities)}
    out |= {f"{name}/p": float(p) for name, p in zip(names, probabilities, strict=True)}
    if values is not None:
        out |= {f"{name}/q": float(q) for name, q in zip(names, values, strict=True)}
    return out
