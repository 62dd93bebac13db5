"""Intervals: coverage by simulation, pairing, stratification, and cases where nothing can be known. About 3 s."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.evaluate.bootstrap import stratified_mean, wilson
from instar.errors import ContractError


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """300 worlds of two arms, paired 0/1 answers, true difference 0.1: 95 % +- 3.7 % (three standard errors)."""
    rng, covered = generator(1), 0
    for world in range(300):
        arms = []
        for base, size in ((0.3, 60), (0.6, 40)):
            shared = rng.random(size)
            other = np.where(rng.random(size) < 0.5, shared, rng.random(size))
            arms.append((shared < base + 0.1).astype(float) - (other < base).astype(float))
        interval = stratified_mean(arms, 500, 0.95, generator(world))
        covered += interval.low <= 0.1 <= interval.high
    assert 0.91 <= covered / 300 <= 0.99


def test_false_alarms_are_as_rare_as_p_says() -> None:
    rng, alarms = generator(2), 0
    for world in range(300):
        a, b = ((rng.random(80) < 0.5).astype(float) for _ in range(2))
        alarms += stratified_mean([a - b], 500, 0.95, generator(world)).p <= 0.05
    assert 0.01 <= alarms / 300 <= 0.09


def test_pairing_narrows_the_interval() -> None:
    """Two policies that agree on most tasks: the paired interval is a fraction of the one of unrelated policies."""
    rng = generator(3)
    hard = rng.random(200)
    a, b = (hard < 0.5).astype(float), (hard < 0.45).astype(float)
    paired = stratified_mean([a - b], 2000, 0.95, generator())
    unpaired = stratified_mean([a - rng.permutation(b)], 2000, 0.95, generator())
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert paired.low > 0.0 > unpaired.low


def test_arms_weigh_the_same_whatever_their_size() -> None:
    interval = stratified_mean([np.ones(4), np.zeros(400)], 200, 0.95, generator())
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_stratified_interval_ignores_the_spread_between_arms() -> None:
    low, high = np.zeros(50), np.ones(50)
    apart = stratified_mean([low, high], 500, 0.95, generator())
    pooled = stratified_mean([np.concatenate([low, high])], 500, 0.95, generator())
    assert apart.high - apart.low == 0.0
    assert pooled.high - pooled.low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)


def test_interval_is_that_of_resampled_tasks_widened_for_small_arms() -> None:
    """Against resampling by index: same quantiles, with deviations larger by sqrt(n / (n - 1)), here 5 %."""
    values, rng = generator(7).choice([-1.0, -0.5, 0.0, 0.25, 1.0], 11), generator(8)
    means = values[rng.integers(0, 11, (200_000, 11))].mean(axis=1)
    low, high = values.mean() + np.sqrt(11 / 10) * (np.quantile(means, [0.025, 0.975]) - values.mean())
    interval = stratified_mean([values], 200_000, 0.95, generator(9))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.01)
    assert interval.high - interval.low > 1.03 * float(np.diff(np.quantile(means, [0.025, 0.975]))[0])


def test_equal_answers_have_difference_zero_and_p_one() -> None:
    interval = stratified_mean([np.zeros(30), np.zeros(30)], 500, 0.95, generator())
    assert (interval.estimate, interval.low, interval.high, interval.p) == (0.0, 0.0, 0.0, 1.0)


def test_same_seed_same_interval() -> None:
    values = [generator(4).random(30)]
    assert stratified_mean(values, 500, 0.95, generator(5)) == stratified_mean(values, 500, 0.95, generator(5))
    assert stratified_mean(values, 500, 0.95, generator(5)) != stratified_mean(values, 500, 0.95, generator(6))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=2, max_size=20), min_size=1, max_size=4)
)
def test_swapping_the_policies_mirrors_the_estimate(values: list[list[float]]) -> None:
    arms = [np.array(v) for v in values]
    one = stratified_mean(arms, 200, 0.9, generator())
    two = stratified_mean([-a for a in arms], 200, 0.9, generator())
    assert one.estimate == pytest.approx(-two.estimate)
    assert one.estimate == pytest.approx(np.mean([a.mean() for a in arms]))
    assert one.low <= one.high and 0.0 < one.p <= 1.0


@pytest.mark.parametrize("arms", [[], [np.array([1.0])], [np.array([1.0, 0.0]), np.array([0.5])]])
def test_an_arm_without_spread_is_refused(arms: list[np.ndarray]) -> None:
    with pytest.raises(ContractError, match="two tasks"):
        stratified_mean(arms, 200, 0.95, generator())


@pytest.mark.parametrize(
    ("mean", "count", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 20, 0.0, 0.1611), (1.0, 20, 0.8389, 1.0), (0.1, 50, 0.0435, 0.2136)],
)
def test_wilson_against_published_values(mean: float, count: int, low: float, high: float) -> None:
    assert wilson(mean, count, 0.95) == pytest.approx((low, high), abs=1e-4)
