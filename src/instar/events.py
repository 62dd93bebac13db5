"""Events that a runner sends to its listener, for example to a progress display or a tracker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from instar.ledger import Entry


@dataclass(frozen=True)
class StageStarted:
    """A stage is about to start. It may turn out that the ledger has its result already."""

    stage: str
    iteration: int
    step: int


@dataclass(frozen=True)
class Unit:
    """A unit of work inside a stage is done."""

    name: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StageDone:
    """A stage is committed. `cached` means that the ledger already had it."""

    stage: str
    iteration: int
    step: int
    entry: Entry
    cached: bool


Event = StageStarted | Unit | StageDone
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore the event."""
