"""Configuration of one inner step, and of a fused segment of several."""

from __future__ import annotations

from dataclasses import dataclass

from instar.components.curriculum.config import Config as CurriculumConfig
from instar.components.reward.config import Config as RewardConfig
from instar.components.rollout.config import Config as RolloutConfig
from instar.components.update.config import Config as UpdateConfig


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Configuration of the four stages that make up an inner step."""

    curriculum: CurriculumConfig
    rollout: RolloutConfig
    reward: RewardConfig
    update: UpdateConfig


@dataclass(frozen=True, kw_only=True)
class FusedConfig:
    """Configuration of a fused segment: `steps` inner steps in one resident process."""

    steps: int
    inner: StepConfig
