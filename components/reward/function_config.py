"""Which function of the user's scores an answer, and how much it counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from instar.components.sandbox.config import check_entry
from instar.config import out_of_range
from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FunctionConfig:
    """One function of the user's, for example `rew.py:reward`. Its code is an artifact; this is only its name in there."""

    entry: str
    """FILE:NAME inside of the bundle."""
    weight: float = 1.0
    """Factor of its value in the reward."""
    name: str = ""
    """Name of its part in a score. Empty means the name of the function."""
    low: float = 0.0
    high: float = 1.0
    """Smallest and largest value that the function may return. A value at `high` is right, one at `low` is wrong."""

    def __post_init__(self) -> None:
        """Refuse an entry that is none, an empty range, and weights that are not finite."""
        check_entry(self.entry)
        if not math.isfinite(self.weight):
            raise out_of_range("reward.functions.weight", "a finite number", self.weight)
        if not self.low < self.high:
            raise out_of_range("reward.functions.high", f"> low, which is {self.low:g}", self.high)

    @property
    def part(self) -> str:
        """The name of its value among the parts of a score."""
        return self.name or self.entry.rpartition(":")[2]

    def share(self, value: float) -> float | None:
        """Return the place of a value between `low` (0) and `high` (1), or None for one outside."""
        return (value - self.low) / (self.high - self.low) if self.low <= value <= self.high else None


def require_names(functions: Sequence[FunctionConfig]) -> None:
    """Raise `ConfigError` if two functions have one name, because their values would be one part of the reward."""
    names = [function.part for function in functions]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            expected="functions with different names",
            found=f"{names.count(repeated[0])} functions named '{repeated[0]}'",
            where="reward.functions",
            action="set the field `name` of one of them",
        )
