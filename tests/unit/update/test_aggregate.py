"""One normaliser per optimiser step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.update.advantages import Bools, Ints
from instar.components.update.aggregate import Rule, normaliser, sequence_weights

RULES: list[Rule] = ["token_mean", "seq_token_mean", "seq_token_sum", "constant"]


@pytest.mark.parametrize(
    ("rule", "expected"), [("token_mean", 0.6), ("seq_token_mean", 0.0), ("constant", 0.1875), ("seq_token_sum", 3.0)]
)
def test_two_sequences(rule: Rule, expected: float) -> None:
    # T = 2 with A = +1, T = 8 with A = -1, ratio 1: token loss -A.
    lengths, loss = np.array([2, 8]), np.array([-1.0, 1.0])
    w = sequence_weights(rule, lengths, np.array([True, True]), max_length=16)
    assert (w * loss * lengths).sum() == pytest.approx(expected)


def _naive(rule: Rule, tokens: list[list[float]], max_length: int) -> float:
    flat = [x for seq in tokens for x in seq]
    if rule == "token_mean":
        return sum(flat) / len(flat)
    if rule == "seq_token_mean":
        return sum(sum(seq) / len(seq) for seq in tokens) / len(tokens)
    return sum(flat) / (len(tokens) * (max_length if rule == "constant" else 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(RULES),
    st.integers(1, 5),
)
def test_any_split_gives_the_loss_of_the_whole(rows: list[tuple[list[float], bool]], rule: Rule, parts: int) -> None:
    lengths: Ints = np.array([len(seq) for seq, _ in rows])
    included: Bools = np.array([flag for _, flag in rows])
    w = sequence_weights(rule, lengths, included, max_length=32)
    sums = np.array([sum(seq) for seq, _ in rows])
    total = sum(float((w[part] * sums[part]).sum()) for part in np.array_split(np.arange(len(rows)), parts))
    kept = [seq for seq, flag in rows if flag]
    assert total == pytest.approx(_naive(rule, kept, 32) if kept else 0.0, abs=1e-9)
    assert not w[~included].any()


def test_left_out_sequences_leave_the_denominator_too() -> None:
    lengths = np.array([4, 6, 10])
    assert normaliser("token_mean", lengths, np.array([True, True, False])) == 10
    assert normaliser("seq_token_mean", lengths, np.array([True, False, False])) == 1
    assert normaliser("constant", lengths, np.array([True, True, False]), 100) == 200
