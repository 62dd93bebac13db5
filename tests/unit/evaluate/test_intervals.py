"""Intervals: coverage by simulation, closed forms, pairing, stratification, and cases where nothing can be known. About 5 s."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.evaluate.intervals import freedom, limits, moments, stratified_mean, student, wilson
from instar.errors import ContractError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = ((8,), (20,), (48,), (200,), (8, 8, 32), (16, 16, 16), (2,) * 10, (10, 200), (64,) * 14)


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gate_coverage")


def test_coverage_never_falls_below_93_percent(grid: Any) -> None:
    """8 to 200 tasks and 896 in 14 arms, few and many that differ, answers, samples and returns: nominal .95, 1,500 draws a world.

    The standard error is half a point, so the bar is .93 less two of them; benchmarks/gate_coverage.py has the table at 20,000
    draws, lowest .938, and 1,000 tasks.
    """
    rng = np.random.default_rng(1)
    found = {world.name: grid.covered(world, 1500, rng)[0] for world in grid.worlds(SMALL)}
    assert len(found) > 120
    assert {name: share for name, share in found.items() if share < 0.92} == {}
    assert np.mean(list(found.values())) < 0.985  # and they are not simply wide


@pytest.mark.parametrize(("size", "lost"), [(48, 0.03), (20, 0.05), (200, 0.005)])
def test_the_bootstrap_that_this_replaces_does_not_cover(grid: Any, size: int, lost: float) -> None:
    """A check of the check: where few tasks differ it holds the truth in 77 % and less, and is a point in many draws."""
    world, rng = grid.answers((size,), 0.0, [lost]), np.random.default_rng(2)
    assert grid.bootstrap(world, 300, rng)[0] < 0.8 < 0.93 < grid.covered(world, 2000, rng)[0]


def test_intervals_are_hardly_wider_than_they_must_be(grid: Any) -> None:
    """Where many tasks differ the width is that of t and the measured spread, within 4 %, which no interval can beat."""
    rng = np.random.default_rng(3)
    for sizes in ((48,), (200,), (16, 16, 16), (64,) * 14):
        found = moments(grid.answers(sizes, 0.3, [0.2] * len(sizes)).draw(rng, 1000))
        low, high = limits(found, 0.95)
        plain = 2 * student(0.95, freedom(sizes)) * np.sqrt(found.variance)
        assert np.mean(high - low) <= 1.04 * np.mean(plain)


def test_without_an_event_the_interval_is_wilsons() -> None:
    """None of 48 differs: 4.05 / (48 + 4.05) on either side, t = 2.012; a plain bootstrap says 0."""
    found = stratified_mean([np.zeros(48)], 0.95)
    c = student(0.95, 47) ** 2
    assert found.estimate == 0.0 and found.high == -found.low == pytest.approx(c / (48 + c)) == pytest.approx(
        0.0778, abs=1e-4
    )


@pytest.mark.parametrize(("lost", "low"), [(1, 0.1108), (2, 0.1425), (4, 0.1993)])
def test_losses_that_all_point_one_way_have_wilsons_outer_end(lost: int, low: float) -> None:
    """Of 48 tasks 1, 2, 4 are lost and none is won: the outer end d solves (D - d)^2 = t^2 |d| (1 - |d|) / 48, t^2 = 4.05."""
    found = stratified_mean([np.array([-1.0] * lost + [0.0] * (48 - lost))], 0.95)
    assert -found.low == pytest.approx(low, abs=2e-3)
    assert (lost / 48 + found.low) ** 2 == pytest.approx(4.047 * -found.low * (1 + found.low) / 48, rel=1e-3)


@pytest.mark.parametrize(("won", "told"), [(3, False), (4, True)])
def test_a_gain_is_told_from_four_tasks_won_and_none_lost(won: int, told: bool) -> None:
    """As the score test of paired answers: 4 / sqrt(4) = 2. Two equal policies come there in 2 % of draws at most."""
    assert (stratified_mean([np.array([1.0] * won + [0.0] * 44)], 0.95).low > 0.0) is told


def test_pairing_narrows_the_interval() -> None:
    """Two policies that agree on most tasks: the paired interval is a fraction of the one of unrelated policies."""
    rng = np.random.default_rng(3)
    hard = rng.random(200)
    a, b = (hard < 0.5).astype(float), (hard < 0.45).astype(float)
    paired, unpaired = stratified_mean([a - b], 0.95), stratified_mean([a - rng.permutation(b)], 0.95)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert paired.low > 0.0 > unpaired.low


def test_arms_weigh_the_same_whatever_their_size() -> None:
    """All of 4 right, none of 400: .5; the arm of four tasks alone decides how far the truth may be."""
    small = stratified_mean([np.ones(4), np.zeros(400)], 0.95)
    large = stratified_mean([np.ones(400), np.zeros(400)], 0.95)
    assert small.estimate == large.estimate == 0.5
    assert small.high - small.low > 10 * (large.high - large.low)


def test_stratified_interval_ignores_the_spread_between_arms() -> None:
    """Arms that are all wrong and all right: e = 1/100, so t^2 e is left on either side, not the .1 of one mixed arm."""
    low, high = np.zeros(50), np.ones(50)
    apart, pooled = stratified_mean([low, high], 0.95), stratified_mean([np.concatenate([low, high])], 0.95)
    assert apart.high - 0.5 == pytest.approx(student(0.95, 98) ** 2 / 100, rel=1e-6)
    assert pooled.high - 0.5 == pytest.approx(student(0.95, 99) * 0.05, rel=0.02)


def test_returns_have_no_bound_and_events_as_large_as_what_was_seen() -> None:
    """One of 20 episodes falls by .8, the others stay: V = .04^2, yet a second such fall is not ruled out."""
    values = np.array([-0.8] + [0.0] * 19)
    found, c = stratified_mean([values], 0.95, bounded=False), student(0.95, 19) ** 2
    assert found.estimate == pytest.approx(-0.04) and found.high == pytest.approx(-0.04 + c * 0.76 / 20)
    even = stratified_mean([np.linspace(-1.0, 1.0, 40)], 0.95, bounded=False)
    assert even.high == pytest.approx(student(0.95, 39) * np.linspace(-1, 1, 40).std(ddof=1) / math.sqrt(40))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=2, max_size=20), min_size=1, max_size=4),
    st.booleans(),
)
def test_swapping_the_policies_mirrors_the_interval(values: list[list[float]], bounded: bool) -> None:
    arms = [np.array(v) for v in values]
    one, two = (stratified_mean(a, 0.9, bounded=bounded) for a in (arms, [-a for a in arms]))
    assert (one.estimate, one.low, one.high) == pytest.approx((-two.estimate, -two.high, -two.low))
    assert one.estimate == pytest.approx(np.mean([a.mean() for a in arms]))
    assert one.low <= one.estimate <= one.high
    wider = stratified_mean(arms, 0.99, bounded=bounded)
    assert wider.low <= one.low + 1e-12 and wider.high >= one.high - 1e-12
    assert not bounded or -1.0 <= one.low <= one.high <= 1.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), min_size=2, max_size=30), st.randoms())
def test_order_of_tasks_does_not_matter(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    assert stratified_mean([np.array(values)], 0.95).estimate == stratified_mean([np.array(shuffled)], 0.95).estimate


def test_moments_of_many_draws_are_those_of_each() -> None:
    rng = np.random.default_rng(5)
    arms = [rng.integers(-1, 2, (7, 8)).astype(float), rng.integers(-1, 2, (7, 20)).astype(float)]
    low, high = limits(moments(arms), 0.95)
    for n in range(7):
        found = stratified_mean([a[n] for a in arms], 0.95)
        assert (found.low, found.high) == pytest.approx((low[n], high[n]))


@pytest.mark.parametrize("arms", [[], [np.array([1.0])], [np.array([1.0, 0.0]), np.array([0.5])]])
def test_an_arm_without_spread_is_refused(arms: list[np.ndarray]) -> None:
    with pytest.raises(ContractError, match="two tasks"):
        stratified_mean(arms, 0.95)


@pytest.mark.parametrize(
    ("degrees", "confidence", "quantile"),
    [(5, 0.95, 2.5706), (10, 0.95, 2.2281), (30, 0.95, 2.0423), (30, 0.99, 2.7500), (1000, 0.95, 1.9623)],
)
def test_quantiles_of_t_against_tables(degrees: int, confidence: float, quantile: float) -> None:
    assert student(confidence, degrees) == pytest.approx(quantile, rel=0.003)
    assert student(0.95, 1) > 12.706 and student(0.95, 2) > 4.303  # too wide where it is not exact


def test_degrees_of_freedom_are_those_of_the_arm_that_matters() -> None:
    assert (freedom([48]), freedom([16, 16, 16])) == pytest.approx((47, 45))
    assert freedom([10, 200]) == pytest.approx(9.92, abs=0.01)


@pytest.mark.parametrize(
    ("mean", "count", "low", "high"),
    [(0.5, 100, 0.4038, 0.5962), (0.0, 20, 0.0, 0.1611), (1.0, 20, 0.8389, 1.0), (0.1, 50, 0.0435, 0.2136)],
)
def test_wilson_against_published_values(mean: float, count: int, low: float, high: float) -> None:
    assert wilson(mean, count, 0.95) == pytest.approx((low, high), abs=1e-4)
