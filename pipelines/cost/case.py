"""What a plan is about: a recipe, a number of GPUs, a model size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from instar.pipelines.cost.constants import Constants
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import Task


@dataclass(frozen=True, kw_only=True)
class Case:
    """0 GPUs are CPU pods. `params` are the policy's parameters; `scale` corrects the predicted work to a measured one."""

    recipe: Recipe
    gpus: int
    params: float
    scale: float
    constants: Constants

    @property
    def nodes(self) -> int:
        """Machines that the GPUs fill."""
        return max(1, math.ceil(self.gpus / self.constants.gpus_per_node))

    def gang(self, task: Task) -> int:
        """Return the machines on which a task that trains runs at once; 1 for every other task."""
        return self.nodes if task.kind in ("fused", "update") else 1
