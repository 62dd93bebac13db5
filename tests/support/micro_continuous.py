"""Decision Mamba small enough to run whole in seconds: a few pendulum episodes, one layer, windows of four steps."""

from __future__ import annotations

import dataclasses
from typing import Any

from instar.components.continuous.config import DecisionMambaArch
from instar.components.curriculum.config import UniformConfig
from instar.components.dataset_prep.offline.config import OfflineConfig, PendulumSource
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build


def micro_continuous(**changes: Any) -> Recipe:
    """Return the micro recipe: the tiny recipe of Decision Mamba with smaller numbers everywhere."""
    base = build("decision_mamba", "tiny")
    recipe = dataclasses.replace(
        base,
        iterations=2,
        dataset_prep=OfflineConfig(
            source=PendulumSource(rates=(1.0, 0.4), episodes=3),
            arch=DecisionMambaArch(width=8, layers=1, state_size=4, window=4),
            val_episodes=3,
            test_episodes=3,
            probe_episodes=2,
        ),
        curriculum=UniformConfig(prompts=24, group_size=1),
        update=dataclasses.replace(base.update, batch=8, warmup_steps=2, probe=8),
        evaluate=dataclasses.replace(base.evaluate, min_pairs=3),
        test=dataclasses.replace(base.test, min_pairs=3),
    )
    return dataclasses.replace(recipe, **changes)
