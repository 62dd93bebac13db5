"""The ladder of SPARK's tiny scale: counting ones in rows of growing length, and the character model that climbs it."""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import ArmConfig, FromScratch, PoolsConfig, TextConfig
from instar.components.dataset_prep.warm_derived import DerivedWarmStart
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.derived.anchors import AnchorConfig

TAUGHT = (6, 7, 8, 9, 10)
LENGTHS = (*TAUGHT, 12, 15, 18, 21, 24, 28)


def counting() -> TextConfig:
    """Return the world of the tiny scale: rows of 6 to 28 digits, of which the start has learned those of 6 to 10."""
    anchors = AnchorConfig(wording="terse", questions=96)
    return TextConfig(pools=rows(LENGTHS, 1000, 48, 64), initial=counter(TAUGHT, steps=700), anchors=anchors)


def rows(lengths: Sequence[int], train: int, val: int, test: int) -> PoolsConfig:
    """Return one arm per row length, with one to nine ones in every row.

    Not ten: a number of two digits is in no row of the start, so it is hardly ever sampled, never paid and never learned. Of the
    2^n rows at most a half is trained on, a sixth each is validated and tested on.
    """
    arms = tuple(
        ArmConfig(
            name=arm(n),
            domain="ones",
            level=float(n),
            params={"length": n, "least": 1, "most": 9},
            train=min(train, 2**n // 2),
            val=min(val, 2**n // 6),
            test=min(test, 2**n // 6),
        )
        for n in lengths
    )
    return PoolsConfig(arms=arms, template="terse")


def counter(lengths: Sequence[int], steps: int) -> FromScratch:
    """Return a Llama of 124,608 parameters, taught for `steps` batches of 64 to count, judge and correct rows of `lengths`."""
    warm = WarmStartConfig(
        arms=tuple(map(arm, lengths)),
        steps=steps,
        batch=64,
        derived=DerivedWarmStart(point=2.0, pair=1.0, reflect=0.5),
        weight="example",
    )
    model = CharModelConfig(alphabet="0123456789=?|!ynab", hidden=64, layers=3, heads=4, intermediate=128)
    return FromScratch(model=model, warm_start=warm)


def arm(length: int) -> str:
    """Return the name of the arm of one row length."""
    return f"ones-{length:02d}"
