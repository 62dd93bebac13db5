"""Configuration of offline data: where trajectories come from, how they are cut into tasks, and the policy that learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.continuous.config import Arch, DecisionMambaArch
from instar.components.piece import Piece, RecipeView, Sections, TaskUnit
from instar.config import out_of_range

if TYPE_CHECKING:
    from instar.components.dataset_prep.stage import Ins, Outs
    from instar.contract import Context, Metrics


@dataclass(frozen=True, kw_only=True)
class PendulumSource:
    """Pendulum-v1 by a scripted swing-up controller that acts at random at a rate: one tier of quality per rate."""

    strategy: Literal["pendulum"] = "pendulum"
    rates: tuple[float, ...] = (1.0, 0.7, 0.4)
    """Rate of uniform random actions of each tier."""
    episodes: int = 100
    """Episodes per tier, 200 steps each."""

    def __post_init__(self) -> None:
        good = self.rates and all(0.0 <= r <= 1.0 for r in self.rates) and len(set(self.rates)) == len(self.rates)
        _need(bool(good), "different rates in [0, 1]", self.rates, "source.rates")
        _need(self.episodes >= 1, ">= 1", self.episodes, "source.episodes")

    def explain(self) -> str:
        """Name the source."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return f"Pendulum-v1, a scripted swing-up with random actions at rate {rates}: {self.episodes} episodes each"


@dataclass(frozen=True, kw_only=True)
class EpisodesSource:
    """Episodes in Parquet: the folder that `instar data` makes, with a file per tier, or one such file."""

    strategy: Literal["episodes"] = "episodes"
    path: str
    tiers: tuple[str, ...] = ()
    """Tiers to take; none named takes all."""

    def explain(self) -> str:
        """Name the source."""
        return f"episodes in {self.path}" + (f", tiers {', '.join(self.tiers)}" if self.tiers else "")


@dataclass(frozen=True, kw_only=True)
class MinariSource:
    """A Minari data set: the folder that holds `data/main_data.hdf5`, or the HDF5 file."""

    strategy: Literal["minari"] = "minari"
    path: str

    def explain(self) -> str:
        """Name the source."""
        return f"Minari data set in {self.path}"


@dataclass(frozen=True, kw_only=True)
class D4rlSource:
    """An HDF5 file of D4RL's layout, and the task it belongs to, for example `hopper-medium`."""

    strategy: Literal["d4rl"] = "d4rl"
    path: str
    task: str

    def explain(self) -> str:
        """Name the source."""
        return f"D4RL data set {self.task} in {self.path}"


Source: TypeAlias = PendulumSource | EpisodesSource | MinariSource | D4rlSource


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Gaussian noise on the logged actions of a share of all steps: labels that are wrong, as a test of robustness."""

    share: float = 0.0
    std: float = 0.0
    """In units of the action."""

    def __post_init__(self) -> None:
        _need(0.0 <= self.share <= 1.0, "in [0, 1]", self.share, "noise.share")
        _need(self.std >= 0.0, ">= 0", self.std, "noise.std")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found = {} if self.share else {"std": "noise.share > 0"}
        return found if self.std else {**found, "share": "noise.std > 0"}

    def explain(self) -> list[str]:
        """State the noise, if there is any."""
        if not self.share:
            return []
        return [f"Gaussian noise of {self.std:g} on the actions of {self.share:.0%} of all steps"]


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(Piece):
    """Logged trajectories of one environment, cut into tasks, and a continuous-control policy that has not learned yet.

    A training task is a slice: about `arch.window` consecutive starts of windows in one episode. Its arm is the quality of
    the episode: the tier it was recorded as, or its quantile of return where `buckets` is set.
    """

    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {"tasks.features", "data.observations", "data.actions", "data.rewards", "data.returns_to_go"}
    )
    UNIT: ClassVar[TaskUnit] = "segment"

    strategy: Literal["offline"] = "offline"
    source: Source = field(default_factory=PendulumSource)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    buckets: int = 0
    """Arms by quantile of return instead of by tier; 0 keeps the tiers."""
    arch: Arch = field(default_factory=DecisionMambaArch)
    target: float | None = None
    """Return the policy is asked for in evaluation, undiscounted and unscaled; none takes the task's published one."""
    probes: tuple[float, ...] | None = None
    """Other returns to ask for, which show whether the policy does as it is told; none takes the task's own."""
    return_scale: float | None = None
    """Returns are divided by this before the policy sees them; none takes the task's own."""
    val_episodes: int = 32
    test_episodes: int = 32
    probe_episodes: int = 32

    def __post_init__(self) -> None:
        for name in ("val_episodes", "test_episodes", "probe_episodes"):
            _need(getattr(self, name) >= 2, ">= 2", getattr(self, name), name)
        _need(self.buckets == 0 or self.buckets >= 2, "0 or at least 2", self.buckets, "buckets")
        _need(self.return_scale is None or self.return_scale > 0, "> 0", self.return_scale, "return_scale")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
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
        """Return arm -> validation tasks. Episodes ask for one return, which is one arm."""
        return {"target": self.val_episodes}

    def explain(self, recipe: RecipeView) -> Sections:
        """State where trajectories come from, what an arm is, and what the policy's action depends on."""
        del recipe
        arm = f"{self.buckets} quantiles of the return" if self.buckets else "the tiers of the data"
        task = (
            f"a task is a segment of one episode: about {self.arch.window} consecutive starts of windows of "
            f"K = {self.arch.window} steps; an arm is one of {arm}; states are standardised, actions scaled to [-1, 1]"
        )
        return {"data": [self.source.explain(), *self.noise.explain(), task], "policy": self.arch.explain()}


def _need(good: bool, expected: str, found: object, name: str) -> None:
    if not good:
        raise out_of_range(f"dataset_prep.{name}", expected, found)
