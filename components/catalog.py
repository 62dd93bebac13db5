"""Every stage by name. Importing a stage module loads nothing heavy."""

from __future__ import annotations

from typing import Any

from instar.components.control.fused import STAGE as FUSED
from instar.components.curriculum.stage import STAGE as CURRICULUM
from instar.components.dataset_prep.stage import STAGE as DATASET_PREP
from instar.components.evaluate.stage import STAGE as EVALUATE
from instar.components.reward.stage import STAGE as REWARD
from instar.components.rollout.gather import STAGE as GATHER
from instar.components.rollout.stage import STAGE as ROLLOUT
from instar.components.update.stage import STAGE as UPDATE
from instar.contract import Stage

__all__ = ["CURRICULUM", "DATASET_PREP", "EVALUATE", "FUSED", "GATHER", "REWARD", "ROLLOUT", "STAGES", "UPDATE"]

STAGES: dict[str, Stage[Any, Any, Any]] = {
    stage.name: stage for stage in (DATASET_PREP, CURRICULUM, ROLLOUT, GATHER, REWARD, UPDATE, EVALUATE, FUSED)
}
