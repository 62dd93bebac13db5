"""Which pool a row belongs to. The hash of its prompt decides, so a row has the same split for ever, whatever rows are added.

The hash is a number in [0, 1). Below `test` the row is a test task, below `test + val` a validation task, and above it is for
training. A split that the user names is kept. A pool that the user does not name is cut out of the training rows in the same way.
No cap on the number of held-out rows could be stable: every new row would push another one into training. So an evaluation asks the
first `tasks_per_arm` tasks instead, in the order of their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instar.config import out_of_range

NAMES = ("id", "ood", "val", "train")
"""Pools by number. Of two rows with one prompt, the one whose pool comes first is kept, so held-out tasks stay."""
NONE = -1
"""The number of a row whose split the user does not name."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Shares of the rows that are held out for the gate (`val`) and for the test (`test`)."""

    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name in ("val", "test"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise out_of_range(f"--{name}", "a share in [0, 1), such as 0.1", getattr(self, name))
        if self.val + self.test >= 1.0:
            raise out_of_range("--val and --test", "shares with a sum below 1", f"{self.val} + {self.test}")

    def without(self, named: set[str]) -> Shares:
        """Return the shares that are cut out of the training rows, if the user names the splits `named` himself."""
        return Shares(val=0.0 if "val" in named else self.val, test=0.0 if {"id", "ood"} & named else self.test)


def assign(keys: np.ndarray, named: np.ndarray, shares: Shares) -> np.ndarray:
    """Return the number of the pool of every row. `keys` are 64-bit hashes, `named` the splits of the user or `NONE`."""
    place = keys.astype(np.float64) / 2.0**64
    cut = np.full(len(keys), NAMES.index("train"), dtype=np.int8)
    cut[place < shares.test + shares.val] = NAMES.index("val")
    cut[place < shares.test] = NAMES.index("id")
    free = (named == NONE) | (named == NAMES.index("train"))
    return np.where(free, cut, named).astype(np.int8)
