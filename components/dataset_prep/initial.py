"""The policy that an evolution on text starts from: trained from scratch, shipped by a registry package, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


def pretrained(model: str | None) -> Packaged | Checkpoint:
    """Return the checkpoint that `--model` names. Without `--model`, return the packaged model."""
    return Checkpoint(path=model) if model else Packaged()
