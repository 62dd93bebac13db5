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


@dataclass(frozen=True, kw_only=True)
class FilesSource:
    """Episodes of any environment with a box of states and a box of actions. Their files say which layout they have.

    - Parquet with one row per step: the columns `episode`, `observation`, `action`, `reward` and `done`. One file or a folder.
    - The folder that `instar data` makes.
    - A Minari data set: its folder, or its `main_data.hdf5`.
    - An HDF5 file in the layout of D4RL.
    """

    strategy: Literal["files"] = "files"
    path: str
    env: str = ""
    """Id of the environment in gymnasium, for example MountainCarContinuous-v0. It may be empty when the files name it."""
    random_return: float | None = None
    """Mean return of a random policy, whose score is 0. None takes the published one, or measures it in the simulator."""
    expert_return: float | None = None
    """Mean return of an expert, whose score is 1. None takes the published one, or that of the best data."""

    def explain(self) -> str:
        """Name the source, and say where the two references of a score are from."""
        random = "measured in the simulator" if self.random_return is None else f"{self.random_return:g}, as given"
        expert = "the best of the data" if self.expert_return is None else f"{self.expert_return:g}, as given"
        published = " (published ones where there are any)" if None in (self.random_return, self.expert_return) else ""
        return (
            f"episodes of {self.env or 'the environment that they name'} in {self.path}; "
            f"references{published}: score 0 is the return of random actions, {random}; score 1 is {expert}"
        )


Source: TypeAlias = PendulumSource | EpisodesSource | MinariSource | D4rlSource | FilesSource


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
