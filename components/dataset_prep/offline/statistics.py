"""Statistics of a data set: the mean and deviation that a policy standardises states with, and a summary of every tier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class StateStatistics:
    """Mean and standard deviation of every dimension of the state, over all steps. 1e-6 is added, so no deviation is 0."""

    mean: Doubles
    std: Doubles


def state_statistics(episodes: Episodes) -> StateStatistics:
    """Return the statistics over all steps of all episodes, in double precision."""
    states = episodes.observations.astype(np.float64)
    return StateStatistics(mean=states.mean(axis=0), std=states.std(axis=0) + EPSILON)


def tier_summary(episodes: Episodes) -> dict[str, dict[str, float]]:
    """Return for every tier the numbers of episodes and steps, and the mean, deviation, minimum and maximum of returns.

    The tiers have the order in which they first appear.
    """
    returns, tiers = episodes.returns, episodes.tier
    return {
        tier: {
            "episodes": float((tiers == tier).sum()),
            "steps": float(episodes.lengths[tiers == tier].sum()),
            "mean_return": float(returns[tiers == tier].mean()),
            "std_return": float(returns[tiers == tier].std()),
            "min_return": float(returns[tiers == tier].min()),
            "max_return": float(returns[tiers == tier].max()),
        }
        for tier in dict.fromkeys(tiers.tolist())
    }
