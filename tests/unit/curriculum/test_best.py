"""The best arms: whole ones, highest level first, until they hold the share of the tasks that was asked for."""

from __future__ import annotations

import pytest

from instar.components.curriculum.best import Best
from instar.components.curriculum.config import BestConfig
from instar.components.curriculum.pool import Arm


def chosen(sizes: dict[str, tuple[float, int]], share: float) -> dict[str, float]:
    """Return the probability of every arm that is drawn at all; `sizes` holds level and tasks of each."""
    arms = [Arm(name=name, level=level, size=size, digest="") for name, (level, size) in sorted(sizes.items())]
    strategy = Best(BestConfig(prompts=1, group_size=1, share=share), arms)
    return {arm.name: float(p) for arm, p in zip(arms, strategy.p, strict=True) if p}


def test_whole_arms_are_taken_until_the_share_is_reached_in_proportion_to_size() -> None:
    """30 % of 100 tasks: the best arm has 20, so the next one of 40 comes too. 20 / 60 and 40 / 60."""
    found = chosen({"low": (-900.0, 40), "middle": (-400.0, 40), "high": (-150.0, 20)}, 0.3)
    assert found == {"high": pytest.approx(1 / 3), "middle": pytest.approx(2 / 3)}


@pytest.mark.parametrize(("share", "count"), [(0.07, 7), (0.071, 8), (1.0, 100), (0.001, 1)])
def test_rounding_takes_no_arm_more(share: float, count: int) -> None:
    """0.07 * 100 is 7.000000000000001 in binary: seven arms of one task reach it, an eighth would be rounding."""
    found = chosen({f"q{n:02d}": (float(n), 1) for n in range(100)}, share)
    assert sorted(found) == [f"q{n:02d}" for n in range(100 - count, 100)]


def test_equal_levels_are_taken_by_name() -> None:
    assert set(chosen({"b": (0.0, 5), "a": (0.0, 5)}, 0.5)) == {"a"}
