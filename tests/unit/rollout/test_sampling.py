"""The draw itself: inverse CDF, its uniforms, and its agreement with the distribution. Runs in about two seconds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.rollout import sampling
from instar.components.rollout.sampling import draw, uniforms


def test_uniforms_are_the_philox_stream_of_each_seed() -> None:
    seeds = [0, 5, 2**63 - 1]
    expected = [(np.random.Philox(key=s).random_raw(9) >> np.uint64(11)).astype(np.float64) / 2**53 for s in seeds]
    assert np.array_equal(uniforms(seeds, 9).numpy(), np.array(expected))
    assert np.array_equal(uniforms([5], 4).numpy(), uniforms(seeds, 9).numpy()[1:2, :4])


def test_hand_computed_quantiles() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1.0], dtype=torch.float64)
    token, logprob = draw(logits, uniform, 1.0)
    assert token.tolist() == [0, 0, 1, 1, 3, 3]
    assert logprob.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25], abs=1e-6)


def test_temperature_scores_the_distribution_that_is_sampled() -> None:
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]])
    for temperature, first in (
        (1.0, 0.8),
        (0.5, 0.64 / 0.68),
        (2.0, math.sqrt(0.8) / (math.sqrt(0.8) + math.sqrt(0.2))),
    ):
        below, logprob = draw(logits, torch.tensor([first - 1e-4], dtype=torch.float64), temperature)
        above, _ = draw(logits, torch.tensor([first + 1e-4], dtype=torch.float64), temperature)
        assert (below.item(), above.item()) == (0, 1)
        assert math.exp(logprob.item()) == pytest.approx(first, abs=1e-6)


def test_greedy_scores_at_temperature_one() -> None:
    token, logprob = draw(torch.tensor([[1.0, 3.0, 2.0]]), None, 0.0)
    assert token.item() == 1
    assert logprob.item() == pytest.approx(torch.tensor([1.0, 3.0, 2.0]).log_softmax(0)[1].item(), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 3000), st.integers(0, 2**32), st.floats(1e-9, 1), st.floats(0.1, 30))
def test_the_drawn_token_brackets_the_quantile(vocab: int, seed: int, quantile: float, spread: float) -> None:
    """Holds across the border between one and two levels, and no token of probability 0 is ever drawn."""
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * spread
    logits[0, ::3] = float("-inf")
    if vocab % 3 == 1:
        logits[0, 1] = 0.0
    token, logprob = draw(logits, torch.tensor([quantile], dtype=torch.float64), 1.0)
    exact = logits[0].double().softmax(0).numpy()
    index = int(token)
    upper = exact[: index + 1].sum()
    assert upper - exact[index] - 1e-6 <= quantile <= upper + 1e-6
    assert exact[index] > 0
    assert logprob.item() == pytest.approx(math.log(exact[index]), abs=1e-5)


def test_quantile_zero_draws_the_first_possible_token() -> None:
    """Its probability may be too small for full float32 precision, but is never 0 and its logarithm is finite."""
    logits = torch.tensor([[float("-inf"), -90.0, 0.0]])
    token, logprob = draw(logits, torch.zeros(1, dtype=torch.float64), 1.0)
    assert token.item() == 1
    assert logprob.item() == pytest.approx(-90.0, abs=1e-2)


def test_two_levels_draw_what_one_level_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(64, 3001, generator=torch.Generator().manual_seed(0)) * 2
    uniform = uniforms(range(64), 1)[:, 0]
    two, _ = draw(logits, uniform, 1.0)
    monkeypatch.setattr(sampling, "_ONE_LEVEL", 10_000)
    one, _ = draw(logits, uniform, 1.0)
    assert torch.equal(one, two)


def test_frequencies_pass_a_chi_square_test_on_five_tokens() -> None:
    """20 000 fixed seeds; 18.47 is the 0.999 quantile of chi-square with 4 degrees of freedom."""
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.09, 0.01])
    uniform = uniforms(range(20_000), 3)
    for position in range(3):
        token, _ = draw(probabilities.log().expand(20_000, 5), uniform[:, position], 1.0)
        expected = probabilities.numpy() * 20_000
        assert float(((np.bincount(token.numpy(), minlength=5) - expected) ** 2 / expected).sum()) < 18.47


def test_positions_of_one_seed_are_uncorrelated() -> None:
    uniform = uniforms(range(20_000), 2).numpy()
    assert abs(np.corrcoef(uniform[:, 0], uniform[:, 1])[0, 1]) < 0.03
