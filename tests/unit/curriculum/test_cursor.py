"""Drawing without replacement from a position of two integers. About 2 s."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.curriculum.cursor import Cursor, permutation, take


@settings(deadline=None)
@given(size=st.integers(1, 40), parts=st.lists(st.integers(0, 60), max_size=8))
def test_any_split_into_batches_gives_the_same_sequence(size: int, parts: list[int]) -> None:
    whole, end = take("k", "arm", size, Cursor(), sum(parts))
    cursor, pieces = Cursor(), []
    for part in parts:
        piece, cursor = take("k", "arm", size, cursor, part)
        pieces += piece
    assert pieces == whole
    assert cursor == end


@settings(deadline=None)
@given(size=st.integers(1, 40), epochs=st.integers(1, 5))
def test_every_pass_holds_every_task_once(size: int, epochs: int) -> None:
    indices, _ = take("k", "arm", size, Cursor(), size * epochs)
    for epoch in range(epochs):
        assert sorted(indices[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_refill_is_a_fresh_shuffle_appended_to_what_is_left() -> None:
    first, cursor = take("k", "arm", 10, Cursor(), 7)
    second, cursor = take("k", "arm", 10, cursor, 7)
    assert [*first, *second[:3]] == permutation("k", "arm", 0, 10).tolist()
    assert second[3:] == permutation("k", "arm", 1, 10)[:4].tolist()
    assert permutation("k", "arm", 0, 10).tolist() != permutation("k", "arm", 1, 10).tolist()
    assert cursor == Cursor(epoch=1, position=4)


def test_pool_smaller_than_the_batch_is_used_evenly() -> None:
    indices, _ = take("k", "arm", 3, Cursor(), 10)
    assert sorted(Counter(indices).values()) == [3, 3, 4]


def test_shuffles_are_uniform() -> None:
    """Each of the 24 orders of 4 tasks in 2400 shuffles: chi-square of 23 degrees, 49.7 is the 0.1 % point."""
    counts = Counter(tuple(permutation.__wrapped__("k", "arm", epoch, 4).tolist()) for epoch in range(2400))
    assert len(counts) == 24
    assert sum((c - 100.0) ** 2 / 100.0 for c in counts.values()) < 49.7


def test_arms_and_evolutions_have_their_own_shuffles() -> None:
    orders = {tuple(permutation(key, arm, 0, 30).tolist()) for key in "ab" for arm in "xy"}
    assert len(orders) == 4


def test_shuffle_cannot_be_changed_by_a_caller() -> None:
    order = permutation("k", "arm", 0, 5)
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 3
    assert order.dtype == np.int64
