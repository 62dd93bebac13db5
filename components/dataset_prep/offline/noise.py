"""Adds noise to logged actions on purpose. So it can be measured how well a method copes with a known share of wrong actions."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from instar.components.dataset_prep.offline.episodes import Episodes, Flags
from instar.errors import ConfigError


def add_action_noise(
    episodes: Episodes, *, std: float, share: float, unit: Literal["steps", "episodes"], seed: int
) -> tuple[Episodes, Flags]:
    """Return the episodes with Gaussian noise on some actions, and a mask of the changed steps, [N].

    `unit` says whether single steps or whole episodes are drawn. round(share * count) of them are drawn without replacement. `std`
    is in the units of the action, and noisy actions are clipped to the box. Observations and rewards stay those of the true
    actions. Equal seeds give equal noise. A share outside of [0, 1] or a negative `std` is a `ConfigError`.
    """
    if not (0.0 <= share <= 1.0 and 0.0 <= std < float("inf")):
        raise ConfigError(
            expected="a share in [0, 1] and a finite std >= 0",
            found=f"share {share}, std {std}",
            where="noise",
            action="correct the noise of the data set",
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    count = episodes.num_steps if unit == "steps" else episodes.num_episodes
    chosen = np.zeros(count, np.bool_)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    changed = chosen if unit == "steps" else np.repeat(chosen, episodes.lengths)
    # Noise is drawn for every step, so the noise of a step does not depend on which other steps are noisy.
    noise = rng.standard_normal(episodes.actions.shape) * std
    low, high = episodes.action_low.astype(np.float32), episodes.action_high.astype(np.float32)
    noisy = np.clip((episodes.actions + noise).astype(np.float32), low, high)
    actions = np.where(changed[:, None], noisy, episodes.actions)
    return dataclasses.replace(episodes, actions=actions), changed
