"""What a validation set can tell, before a task is tried. Scores are in [0, 1]; sizes are tasks per arm, two or more.

Means over arms weigh small arms as much as large ones, so N tasks tell as much as n = 1 / sum(1 / (K^2 (n_k - 1))) in one arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from instar import seeds
from instar.components.evaluate.intervals import Moments, event, freedom, limits, student

LOST = 0.05
"""Share of tasks that a better policy is taken to lose, beside those that it wins."""
DRAWS = 10_000


def least_gain(sizes: Sequence[int], confidence: float) -> float:
    """Return the gain below which no difference is told, even when no task at all is lost."""
    c = _square(sizes, confidence)
    return c / (1.0 + c)


def usual_gain(sizes: Sequence[int], confidence: float, power: float = 0.8) -> float:
    """Return the gain g that is told with probability `power` when `LOST` of the tasks are lost and g + `LOST` are won.

    Solves g = (t + z) sqrt((g + 2 LOST - g^2) / n), the normal approximation.
    """
    ratio = 1.0 + NormalDist().inv_cdf(power) / student(confidence, freedom(sizes))
    c = _square(sizes, confidence) * ratio * ratio
    return min(1.0, (c + math.sqrt(c * c + 8.0 * c * LOST * (1.0 + c))) / (2.0 * (1.0 + c)))


def least_loss(sizes: Sequence[int], confidence: float) -> float:
    """Return the loss that stays possible when no task differs: with a margin below it nothing is ever called equal."""
    c = student(confidence, freedom(sizes)) ** 2 * event(sizes)
    return c / (1.0 + c)


def luck(sizes: Sequence[int], confidence: float, margin: float, true: float) -> float:
    """Return the chance that a gate promotes a policy that differs by `true`, in one look.

    Simulated with `DRAWS` policies that lose and win `LOST` of the tasks beside the difference.
    """
    generator = seeds.rng("power", 0, "luck", f"{sizes}/{confidence}/{margin}/{true}")
    won, lost = LOST + max(true, 0.0), LOST + max(-true, 0.0)
    estimate, variance = np.zeros(DRAWS), np.zeros(DRAWS)
    for size in sizes:
        wins, losses, _ = generator.multinomial(size, [won, lost, 1.0 - won - lost], size=DRAWS).T
        mean = (wins - losses) / size
        estimate += mean / len(sizes)
        variance += ((wins + losses) / size - mean * mean) / ((size - 1) * len(sizes) ** 2)
    found = Moments(estimate=estimate, variance=variance, event=event(sizes), reach=1.0, freedom=freedom(sizes))
    low, _ = limits(found, confidence)
    promoted = (low > 0.0) | ((low >= -margin) & (found.estimate >= 0.0))
    return float(promoted.mean())


def at_least_once(chance: float, looks: int) -> float:
    """Return the chance of one promotion or more in independent looks; the policies of an evolution are alike, so it is less."""
    return 1.0 - (1.0 - chance) ** looks


def _square(sizes: Sequence[int], confidence: float) -> float:
    """Return t^2 / n."""
    return student(confidence, freedom(sizes)) ** 2 * sum(1.0 / (size - 1) for size in sizes) / len(sizes) ** 2
