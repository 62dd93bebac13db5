"""Advantages against hand-computed values, and exact zeros where rewards are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.update.advantages import advantages, centred, group_std, whiten, zero_variance
from instar.errors import RewardError

ONE = np.zeros(4, dtype=np.int64)
R = np.array([1.0, 0.0, 0.0, 0.0])


def _a(values: Any = R, group: Any = ONE, num: int = 1, eps: float = 1e-12, **options: Any) -> Any:
    return advantages(np.asarray(values, dtype=np.float64), np.asarray(group), num, eps=eps, **options)


def test_hand_computed() -> None:
    np.testing.assert_allclose(_a(baseline="loo", scale="none"), [1, -1 / 3, -1 / 3, -1 / 3])
    np.testing.assert_allclose(_a(baseline="group", scale="group_std"), [1.5, -0.5, -0.5, -0.5])
    np.testing.assert_allclose(_a(baseline="group", scale="none"), [0.75, -0.25, -0.25, -0.25])
    np.testing.assert_allclose(_a(baseline="none", scale="none"), R)
    np.testing.assert_allclose(_a(baseline="batch", scale="none"), [0.75, -0.25, -0.25, -0.25])


def test_batch_std_uses_the_group_mean_and_the_batch_std() -> None:
    values, group = [1.0, 0.0, 4.0, 4.0], [0, 0, 1, 1]
    std = np.std(values, ddof=1)
    expected = [0.5 / std, -0.5 / std, 0, 0]
    np.testing.assert_allclose(_a(values, group, 2, baseline="group", scale="batch_std"), expected)


def test_whiten_weighs_tokens_and_leaves_constant_groups_at_zero() -> None:
    values, group = [1.0, 0.0, 4.0, 4.0], [0, 0, 1, 1]
    lengths = np.array([3, 1, 2, 2])
    got = _a(values, group, 2, baseline="group", scale="whiten", lengths=lengths)
    tokens = np.repeat([0.5, -0.5, 0.0, 0.0], lengths)
    white = (tokens - tokens.mean()) / tokens.std(ddof=1)
    np.testing.assert_allclose(got, [white[0], white[3], 0, 0])
    np.testing.assert_array_equal(whiten(np.full(3, 0.1), np.ones(3), 1e-6), np.zeros(3))


@pytest.mark.parametrize("value", [0.1, 0.2, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("scale", ["none", "group_std", "batch_std"])
@pytest.mark.parametrize("baseline", ["group", "loo"])
def test_constant_groups_are_exactly_zero(value: float, scale: str, baseline: str) -> None:
    for n in range(3, 65):
        rewards = np.r_[np.full(n, value), [0.0, 1.0]]
        group = np.r_[np.zeros(n, dtype=np.int64), [1, 1]]
        a = _a(rewards, group, 2, eps=1e-9, baseline=baseline, scale=scale)
        assert not a[:n].any() and a[n:].all()
        assert zero_variance(rewards, group, 2).tolist() == [True, False]
        assert group_std(rewards, group, 2)[0] == 0


def test_the_naive_standard_deviation_would_not_be_zero() -> None:
    # Why max == min is the test: the std of equal numbers is often rounding noise.
    assert any(np.std(np.full(n, v)) != 0 for n in range(3, 65) for v in (0.1, 0.7, 0.9))


def test_groups_of_one_are_refused() -> None:
    with pytest.raises(RewardError, match="1 groups of one"):
        _a([1.0, 0.0, 1.0], [0, 0, 1], 2, baseline="group", scale="none")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10)), min_size=1, max_size=40), st.randoms())
def test_group_properties(pairs: list[tuple[int, float]], random: Any) -> None:
    pairs = [*pairs, *[(g, 0.25 * g) for g in range(4)], *[(g, 1.0) for g in range(4)]]
    random.shuffle(pairs)
    group = np.array([g for g, _ in pairs])
    values = np.array([v for _, v in pairs])
    c = centred(values, group, 4)
    np.testing.assert_allclose(np.bincount(group, weights=c), 0, atol=1e-9)
    a = _a(values, group, 4, baseline="group", scale="group_std")
    for g in range(4):
        own = values[group == g]
        if own.max() > own.min() + 1e-6:
            np.testing.assert_allclose(a[group == g].std(ddof=1), 1, rtol=1e-6)
    loo = _a(values, group, 4, baseline="loo", scale="none")
    i = 0
    others = values[(group == group[i]) & (np.arange(len(values)) != i)]
    np.testing.assert_allclose(loo[i], values[i] - others.mean(), atol=1e-9)
