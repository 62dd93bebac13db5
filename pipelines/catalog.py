"""Every stage by its name: the stages of the components, and the fused segment, which runs several of them."""

from __future__ import annotations

from typing import Any

from instar.components.catalog import CURRICULUM, DATASET_PREP, EVALUATE, GATHER, REWARD, ROLLOUT, UPDATE
from instar.contract import Stage
from instar.pipelines.evolution import FUSED

STAGES: dict[str, Stage[Any, Any, Any]] = {
    stage.name: stage for stage in (DATASET_PREP, CURRICULUM, ROLLOUT, GATHER, REWARD, UPDATE, EVALUATE, FUSED)
}
