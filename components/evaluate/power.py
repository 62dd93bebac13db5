"""What a validation set of a given size can tell. It is computed before any task is attempted.

Scores are in [0, 1]. `sizes` are the numbers of tasks per arm, each two or more. A mean over arms gives small arms the same
weight as large ones. So K arms of n_k tasks tell as much as a single arm of about n = 1 / sum(1 / (K^2 (n_k - 1))) tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from instar import seeds
from instar.components.evaluate.intervals import Moments, event, freedom, limits, student

LOST = 0.05
"""Share of the tasks that a better policy is assumed to lose, although it wins more of the others."""
DRAWS = 10_000


def least_gain(sizes: Sequence[int], confidence: float) -> float:
    """Return the smallest gain that can be recognised, in the best case: no task is lost."""
    c = _square(sizes, confidence)
    return c / (1.0 + c)


def usual_gain(sizes: Sequence[int], confidence: float, power: float = 0.8) -> float:
    """Return the gain g that is recognised with probability `power`, when a share `LOST` of the tasks is lost and g + `LOST` won.

    It solves g = (t + z) sqrt((g + 2 LOST - g^2) / n), which is the normal approximation.
    """
    ratio = 1.0 + NormalDist().inv_cdf(power) / student(confidence, freedom(sizes))
    c = _square(sizes, confidence) * ratio * ratio
    return min(1.0, (c + math.sqrt(c * c + 8.0 * c * LOST * (1.0 + c))) / (2.0 * (1.0 + c)))


def least_loss(sizes: Sequence[int], confidence: float) -> float:
    """Return the loss that stays possible when no task differs. With a margin below this, no verdict is ever `equal`."""
    c = student(confidence, freedom(sizes)) ** 2 * event(sizes)
    return c / (1.0 + c)


def luck(sizes: Sequence[int], confidence: float, margin: float, true: float) -> float:
    """Return the probability that one comparison promotes a policy whose true difference is `true`.

    It is simulated with `DRAWS` policies. Beside the difference, each of them wins and loses a share `LOST` of the tasks.
    """
    generator = seeds.rng("power", 0, "luck", f"{sizes}/{confidence}/{margin}/{true}")
    won, lost = LOST + max(true, 0.0), LOST + max(-true, 0.0)
    estimate, variance = np.zeros(DRAWS), np.zeros(DRAWS)
    for size in sizes:
        wins, losses, _ = generator.multinomial(size, [won, lost, 1.0 - won - lost], size=DRAWS).T
        mean = (wins - losses) / size
        estimate += mean / len(sizes)
        variance += ((wins + losses) / size - mean * mean) / ((size - 1) * len(sizes) ** 2)
    simulated = Moments(estimate=estimate, variance=variance, event=event(sizes), reach=1.0, freedom=freedom(sizes))
    low, _ = limits(simulated, confidence)
    promoted = (low > 0.0) | ((low >= -margin) & (estimate >= 0.0))
    return float(promoted.mean())


def at_least_once(chance: float, looks: int) -> float:
    """Return the probability of at least one promotion in `looks` independent comparisons.

    The policies of an evolution resemble each other, so the true probability is lower.
    """
    return 1.0 - (1.0 - chance) ** looks


def _square(sizes: Sequence[int], confidence: float) -> float:
    """Return t^2 / n."""
    return student(confidence, freedom(sizes)) ** 2 * sum(1.0 / (size - 1) for size in sizes) / len(sizes) ** 2
