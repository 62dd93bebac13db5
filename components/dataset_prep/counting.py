"""The ladder of SPARK's tiny scale: counting ones in rows of growing length, and the character model that climbs it."""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import ArmConfig, FromScratch, PoolsConfig, TextConfig
from instar.components.dataset_prep.warm_generated import GeneratedWarmStart
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.components.generated.anchors import AnchorConfig

TAUGHT = range(6, 11)
LENGTHS = range(6, 17)
LONG = (*TAUGHT, 12, 15, 18, 21, 24, 28)
LEAST = 18


def counting(lengths: Sequence[int] = LENGTHS, least: int = 0, most: int = 64) -> TextConfig:
    """Return the world of the tiny scale: rows of 6 to 16 digits, of which the start has learned those of 6 to 10.

    The start has no row with ten ones to learn from: it hardly ever says a number of two digits, so these are never paid and never
    learned. `LONG` rows with 1 to 9 ones have no such ceiling.
    """
    anchors = AnchorConfig(wording="terse", questions=96)
    return TextConfig(
        pools=rows(lengths, 1000, 48, 64, least, most), initial=counter(TAUGHT, steps=700), anchors=anchors
    )


def rows(lengths: Sequence[int], train: int, val: int, test: int, least: int = 0, most: int = 64) -> PoolsConfig:
    """Return one arm per row length. Of the 2^n rows at most a half is trained on, a sixth each is validated and tested on.

    Validation takes `LEAST` of the shortest rows too: with fewer in an arm, equal answers everywhere would still leave room for a
    loss of two points, and a policy that judges better and solves as much would never become champion.
    """
    limits = {} if (least, most) == (0, 64) else {"least": least, "most": most}
    arms = tuple(
        ArmConfig(
            name=arm(n),
            domain="ones",
            level=float(n),
            params={"length": n, **limits},
            train=min(train, 2**n // 2),
            val=min(val, max(LEAST, 2**n // 6)),
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
        generated=GeneratedWarmStart(point=2.0, pair=1.0, reflect=0.5),
        weight="example",
    )
    model = CharModelConfig(alphabet="0123456789=?|!ynab", hidden=64, layers=3, heads=4, intermediate=128)
    return FromScratch(model=model, warm_start=warm)


def arm(length: int) -> str:
    """Return the name of the arm of one row length."""
    return f"ones-{length:02d}"
