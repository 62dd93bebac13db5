"""Settings of the reward stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """How answers become rewards: reward = correct + `format_reward` * (an answer was found and it is wrong).

    SEC trains with a format reward of 0.1 and tests without one. `failed_limit` is the share of failed verdicts above
    which the stage stops. `style` says where in the completion the answer stands.
    """

    format_reward: float = 0.0
    failed_limit: float = 0.1
    style: Literal["boxed", "line", "tag"] = "boxed"

    def __post_init__(self) -> None:
        """Refuse a format reward that pays as much as a right answer, and a limit that is not a share."""
        for name, value, low, high in (
            ("format_reward", self.format_reward, 0.0, 0.999),
            ("failed_limit", self.failed_limit, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    expected=f"a number in {low}..{high}",
                    found=f"{value}",
                    where=f"reward.{name}",
                    action="correct the value",
                )
