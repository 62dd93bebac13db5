"""The learning rate over the optimiser steps of an evolution.

It rises linearly over `warmup_steps`. Then it stays constant, or it falls to 0 at `total_steps`, linearly or as a cosine.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol


class Schedule(Protocol):
    """The settings that the schedule reads. Every configuration with these fields will do."""

    @property
    def schedule(self) -> Literal["constant", "linear", "cosine"]: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def total_steps(self) -> int: ...


def lr_factor(config: Schedule, step: int) -> float:
    """Return the factor on the learning rate of optimiser step `step`. The first step is number 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup_steps) / (config.total_steps - config.warmup_steps))
    return 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
