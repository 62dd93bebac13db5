"""Configuration of the strategy `offline`: the source of the trajectories, how they become tasks, and the policy that learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from instar.components.continuous.config import Arch, DecisionMambaArch
from instar.components.dataset_prep.offline.sources import (
    D4rlSource,
    EpisodesSource,
    FilesSource,
    MinariSource,
    NoiseConfig,
    PendulumSource,
    Source,
    need,
)
from instar.components.piece import Piece, RecipeView, Sections, TaskUnit

if TYPE_CHECKING:
    from instar.components.dataset_prep.stage import Ins, Outs
    from instar.contract import Context, Metrics

__all__ = [
    "D4rlSource",
    "EpisodesSource",
    "FilesSource",
    "MinariSource",
    "NoiseConfig",
    "OfflineConfig",
    "PendulumSource",
    "Source",
]


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(Piece):
    """Logged trajectories of one environment, cut into tasks, and a new continuous-control policy.

    A training task is a slice of an episode: about `arch.window` consecutive steps. A training window starts at each of them.
    The arm of a slice is the quality of its episode. That is the tier of the data, for example `medium`, or with `buckets` the
    quantile of the episode's return.
    """

    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {"tasks.features", "data.observations", "data.actions", "data.rewards", "data.returns_to_go"}
    )
    UNIT: ClassVar[TaskUnit] = "slice"

    strategy: Literal["offline"] = "offline"
    source: Source = field(default_factory=PendulumSource)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    buckets: int = 0
    """Number of arms by quantile of the return. With 0, the arms are the tiers of the data."""
    arch: Arch = field(default_factory=DecisionMambaArch)
    target: float | None = None
    """The return that evaluation asks the policy for, undiscounted and unscaled. None takes the published one of the task, or that
    of the best data where none is published (`references.py`)."""
    probes: tuple[float, ...] | None = None
    """Other returns that evaluation asks for. They show whether the policy follows the return it is asked for. None takes those of
    the environment."""
    return_scale: float | None = None
    """Returns are divided by this number before the policy sees them. None takes that of the environment."""
    val_episodes: int = 32
    test_episodes: int = 32
    probe_episodes: int = 32

    def __post_init__(self) -> None:
        for name in ("val_episodes", "test_episodes", "probe_episodes"):
            need(getattr(self, name) >= 2, ">= 2", getattr(self, name), name)
        need(self.buckets == 0 or self.buckets >= 2, "0 or at least 2", self.buckets, "buckets")
        need(self.return_scale is None or self.return_scale > 0, "> 0", self.return_scale, "return_scale")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting under which it has one."""
        return {"probe_episodes": "dataset_prep.probes with a return"} if self.probes == () else {}

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Read the trajectories, cut them into tasks, and make the initial policy."""
        from instar.components.dataset_prep.offline.prepare import prepare

        del ins
        return prepare(outs, self, ctx)

    def splits(self) -> set[str]:
        """Return the pools that evaluation can be asked for."""
        return {"val", "id"}

    def validation_sizes(self) -> dict[str, int]:
        """Return arm -> number of validation tasks. All validation episodes ask for the same return, so there is one arm."""
        return {"target": self.val_episodes}

    def explain(self, recipe: RecipeView) -> Sections:
        """State where the trajectories come from, what an arm is, and what the policy's action depends on."""
        del recipe
        arm = f"{self.buckets} quantiles of the return" if self.buckets else "the tiers of the data"
        task = (
            f"a task is a slice of one episode: about {self.arch.window} consecutive starts of windows of "
            f"K = {self.arch.window} steps; an arm is one of {arm}; states are standardised, actions scaled to [-1, 1]"
        )
        return {"data": [self.source.explain(), *self.noise.explain(), task], "policy": self.arch.explain()}
