"""All stages that run in a container of their own. Importing them loads nothing heavy."""

from __future__ import annotations

from instar.components.curriculum.stage import STAGE as CURRICULUM
from instar.components.dataset_prep.stage import STAGE as DATASET_PREP
from instar.components.evaluate.stage import STAGE as EVALUATE
from instar.components.reward.stage import STAGE as REWARD
from instar.components.rollout.gather import STAGE as GATHER
from instar.components.rollout.stage import STAGE as ROLLOUT
from instar.components.update.stage import STAGE as UPDATE

__all__ = ["CURRICULUM", "DATASET_PREP", "EVALUATE", "GATHER", "REWARD", "ROLLOUT", "UPDATE"]
