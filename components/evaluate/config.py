"""Configuration of the evaluation stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from instar.components.rollout.config import EngineConfig
from instar.errors import ConfigError

SPLITS = ("val", "id", "ood")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which tasks, which answers, and how sure a verdict must be."""

    splits: tuple[str, ...] = SPLITS
    """Pools to evaluate; the gate reads `val`."""
    tasks_per_arm: int = 0
    """First tasks of each arm and split, the same for every policy; 0 takes all."""
    samples: int = 1
    """Sampled answers per task; 0 with `greedy` evaluates greedy answers alone."""
    greedy: bool = False
    """Take a greedy answer per task as well. Verdicts rest on the samples where there are any."""
    max_new_tokens: int
    """Length limit of an answer."""
    temperature: float = 1.0
    """Temperature of the samples."""
    style: Literal["boxed", "line", "tag"] = "boxed"
    """Where in the completion the answer stands; as in training."""
    bootstrap: int = 2000
    """Bootstrap resamples over tasks."""
    confidence: float = 0.95
    """Level of all intervals."""
    margin: float = 0.02
    """Difference of macro accuracy that counts as equal."""
    min_pairs: int = 20
    """Fewer common tasks than this cannot tell."""
    failed_limit: float = 0.1
    """Share of failed verdicts above which the stage stops."""
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        unknown = [s for s in self.splits if s not in SPLITS]
        _require(bool(self.splits) and not unknown, "splits", f"a choice of {', '.join(SPLITS)}", self.splits)
        _require(len(set(self.splits)) == len(self.splits), "splits", "each split once", self.splits)
        _require(
            self.tasks_per_arm == 0 or self.tasks_per_arm >= 2, "tasks_per_arm", "0 or at least 2", self.tasks_per_arm
        )
        _require(self.samples >= 0, "samples", ">= 0", self.samples)
        _require(self.samples > 0 or self.greedy, "samples", "samples > 0 or greedy = true", self.samples)
        _require(self.max_new_tokens >= 1, "max_new_tokens", ">= 1", self.max_new_tokens)
        _require(0.0 < self.temperature < float("inf"), "temperature", "> 0; greedy is its own field", self.temperature)
        _require(self.bootstrap >= 100, "bootstrap", ">= 100", self.bootstrap)
        _require(0.5 <= self.confidence < 1.0, "confidence", "in [0.5, 1)", self.confidence)
        _require(0.0 <= self.margin < 1.0, "margin", "in [0, 1)", self.margin)
        _require(self.min_pairs >= 2, "min_pairs", ">= 2", self.min_pairs)
        _require(0.0 <= self.failed_limit <= 1.0, "failed_limit", "in [0, 1]", self.failed_limit)


def _require(holds: bool, name: str, expected: str, found: Any) -> None:
    if not holds:
        raise ConfigError(expected=expected, found=repr(found), where=f"evaluate.{name}", action="correct the value")
