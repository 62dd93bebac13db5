"""Where logged trajectories come from, and the noise that a test of robustness adds to their actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from instar.config import out_of_range


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
        need(bool(good), "different rates in [0, 1]", self.rates, "source.rates")
        need(self.episodes >= 1, ">= 1", self.episodes, "source.episodes")

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
        need(0.0 <= self.share <= 1.0, "in [0, 1]", self.share, "noise.share")
        need(self.std >= 0.0, ">= 0", self.std, "noise.std")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found = {} if self.share else {"std": "noise.share > 0"}
        return found if self.std else {**found, "share": "noise.std > 0"}

    def explain(self) -> list[str]:
        """State the noise, if there is any."""
        if not self.share:
            return []
        return [f"Gaussian noise of {self.std:g} on the actions of {self.share:.0%} of all steps"]


def need(good: bool, expected: str, found: object, name: str) -> None:
    """Raise `ConfigError` for a field of dataset preparation whose value is out of range."""
    if not good:
        raise out_of_range(f"dataset_prep.{name}", expected, found)
