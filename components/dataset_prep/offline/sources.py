"""The sources of logged trajectories, and the noise that can be added to their actions as a test of robustness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from instar.config import out_of_range


@dataclass(frozen=True, kw_only=True)
class PendulumSource:
    """Pendulum-v1 with a scripted swing-up controller, mixed with random actions. Each rate of random actions makes one tier."""

    strategy: Literal["pendulum"] = "pendulum"
    rates: tuple[float, ...] = (1.0, 0.7, 0.4)
    """For each tier the probability that an action is uniformly random. 1.0 makes the worst data."""
    episodes: int = 100
    """Episodes per tier. Each has 200 steps."""

    def __post_init__(self) -> None:
        good = self.rates and all(0.0 <= r <= 1.0 for r in self.rates) and len(set(self.rates)) == len(self.rates)
        need(bool(good), "different rates in [0, 1]", self.rates, "source.rates")
        need(self.episodes >= 1, ">= 1", self.episodes, "source.episodes")

    def explain(self) -> str:
        """Name the source."""
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return f"Pendulum-v1, a scripted swing-up with random actions at rate {rates}: {self.episodes} episodes each"


@dataclass(frozen=True, kw_only=True)
class EpisodesSource:
    """Episodes in Parquet files: the folder that `instar data` makes, with one file per tier, or one such file."""

    strategy: Literal["episodes"] = "episodes"
    path: str
    tiers: tuple[str, ...] = ()
    """Tiers to take. An empty list takes all."""

    def explain(self) -> str:
        """Name the source."""
        return f"episodes in {self.path}" + (f", tiers {', '.join(self.tiers)}" if self.tiers else "")


@dataclass(frozen=True, kw_only=True)
class MinariSource:
    """A Minari data set: the folder with `data/main_data.hdf5`, or the HDF5 file itself."""

    strategy: Literal["minari"] = "minari"
    path: str

    def explain(self) -> str:
        """Name the source."""
        return f"Minari data set in {self.path}"


@dataclass(frozen=True, kw_only=True)
class D4rlSource:
    """An HDF5 file in the layout of D4RL, and the task that it belongs to, for example `hopper-medium`."""

    strategy: Literal["d4rl"] = "d4rl"
    path: str
    task: str

    def explain(self) -> str:
        """Name the source."""
        return f"D4RL data set {self.task} in {self.path}"


Source: TypeAlias = PendulumSource | EpisodesSource | MinariSource | D4rlSource


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Gaussian noise on the logged actions of a share of all steps, as a test of robustness."""

    share: float = 0.0
    std: float = 0.0
    """Standard deviation of the noise, in the units of the action."""

    def __post_init__(self) -> None:
        need(0.0 <= self.share <= 1.0, "in [0, 1]", self.share, "noise.share")
        need(self.std >= 0.0, ">= 0", self.std, "noise.std")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields without effect, each with the setting under which it has one."""
        fields = {} if self.share else {"std": "noise.share > 0"}
        return fields if self.std else {**fields, "share": "noise.std > 0"}

    def explain(self) -> list[str]:
        """State the noise, if there is any."""
        if not self.share:
            return []
        return [f"Gaussian noise of {self.std:g} on the actions of {self.share:.0%} of all steps"]


def need(good: bool, expected: str, found: object, name: str) -> None:
    """Raise `ConfigError` for a field of dataset preparation whose value is out of range."""
    if not good:
        raise out_of_range(f"dataset_prep.{name}", expected, found)
