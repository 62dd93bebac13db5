"""The policy that an evolution on text starts from.

It is trained from scratch, shipped by a registry package, a checkpoint, or the champion of another run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instar.components.architecture import Architecture
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.packages import package
from instar.components.dataset_prep.warmstart import WarmStartConfig


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """A new character model. It is trained on worked answers of easy arms (`warm_start`) before the evolution begins."""

    strategy: Literal["from_scratch"] = "from_scratch"
    model: CharModelConfig
    warm_start: WarmStartConfig


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A pretrained model that a registry package ships (`packages.PACKAGES`). It is converted once and then cached."""

    strategy: Literal["packaged"] = "packaged"
    name: str = "smollm2-135m-instruct"

    def __post_init__(self) -> None:
        """Refuse a model that no known package ships."""
        package(self.name)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A transformers checkpoint: a folder, or a hub id that transformers can download."""

    strategy: Literal["checkpoint"] = "checkpoint"
    path: str


@dataclass(frozen=True, kw_only=True)
class FromRun:
    """The champion of another run, which `--from` names. It is the entry `initial` of the state, pinned by digest.

    `sizes` are those of its model. Plans for a GPU need them before anything runs.
    """

    strategy: Literal["from_run"] = "from_run"
    sizes: Architecture
