"""Filters, overlong rules and mismatch corrections on hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from instar.components.update import mismatch
from instar.components.update.config import Filter, Mismatch, Overlong, PolicyGradientConfig
from instar.components.update.filters import keep_groups
from instar.components.update.overlong import included, shaped, soft_penalty
from instar.errors import NumericsError

GROUP = np.repeat(np.arange(5), 2)
CORRECT = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (Filter(), [0, 1, 2, 3, 4]),
        (Filter(kind="zero_variance"), [1, 3, 4]),
        (Filter(kind="zero_variance", keep_prompts=2), [1, 3]),
        (Filter(kind="band", low=0.4, high=1.0), [1, 3, 4]),
        (Filter(kind="band", low=0.5, high=1.0), []),
        (Filter(keep_prompts=1), [0]),
    ],
)
def test_filters(config: Filter, kept: list[int]) -> None:
    assert np.flatnonzero(keep_groups(config, CORRECT, GROUP, 5)).tolist() == kept


def test_groups_without_a_rollout_are_not_kept() -> None:
    assert keep_groups(Filter(), np.array([1.0, 0.0]), np.array([1, 1]), 3).tolist() == [False, True, False]


def test_soft_overlong_of_the_paper() -> None:
    lengths = np.array([100, 16384, 18432, 20480, 30000])
    np.testing.assert_allclose(soft_penalty(lengths, 20480, 4096), [0, 0, -0.5, -1, -1])
    config = Overlong(kind="soft", max_length=20480, buffer=4096)
    np.testing.assert_allclose(shaped(config, np.ones(5), lengths), [1, 1, 0.5, 0, 0])
    assert shaped(Overlong(), np.ones(5), lengths).tolist() == [1] * 5


def test_mask_leaves_truncated_sequences_out() -> None:
    truncated = np.array([True, False])
    assert included(Overlong(kind="mask"), truncated).tolist() == [False, True]
    assert included(Overlong(kind="soft", max_length=2, buffer=1), truncated).all()


OLD = torch.tensor([0.0, 0.0, 0.0, 0.0]) - 1
BEHAVIOUR = OLD - torch.tensor([4.0, 1.0, 0.25, 1.0]).log()
SEQUENCE = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Mismatch(kind="off"), [1, 1, 1, 1]),
        (Mismatch(kind="token_trunc", high=2), [2, 1, 0.25, 1]),
        (Mismatch(kind="token_mask", low=0.5, high=2), [0, 1, 0, 1]),
        (Mismatch(kind="seq_trunc", agg="sum", high=3), [3, 3, 0.25, 0.25]),
        (Mismatch(kind="seq_trunc", agg="mean", high=3), [2, 2, 0.5, 0.5]),
        (Mismatch(kind="seq_mask", agg="sum", low=0.5, high=2), [0, 0, 0, 0]),
        (Mismatch(kind="seq_mask", agg="mean", low=0.5, high=2), [2, 2, 0.5, 0.5]),
    ],
)
def test_corrections(config: Mismatch, expected: list[float]) -> None:
    got = mismatch.weights(config, OLD, BEHAVIOUR, SEQUENCE, 2)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=got.dtype), rtol=1e-5, atol=1e-6)


def test_product_masks_lose_long_sequences() -> None:
    """Noise of 0.02 nats per token keeps about .59 of the gradient at 4096 tokens under a product mask with bound 3."""
    g = torch.Generator().manual_seed(0)
    gap = 0.02 * torch.randn(2000, 4096, generator=g)
    old = torch.zeros(gap.numel())
    sequence = torch.arange(2000).repeat_interleave(4096)
    kept = {}
    for agg in ("sum", "mean"):
        config = Mismatch(kind="seq_mask", agg=agg, low=0.0, high=3.0)  # type: ignore[arg-type]
        # Samples come from the sampler, whose gap to the trainer has the mean that makes E[rho] = 1.
        weights = mismatch.weights(config, old + gap.flatten() - 0.0002, old, sequence, 2000)
        kept[agg] = float(weights.view(2000, -1)[:, 0].mean())
    assert kept["sum"] == pytest.approx(0.59, abs=0.06)
    assert kept["mean"] > 0.99


def test_measures_and_alarm() -> None:
    one = torch.zeros(len(OLD), dtype=torch.int64)
    found = mismatch.measure(Mismatch(alarm_gap=1.0), OLD, BEHAVIOUR, one)
    assert found["mismatch/abs_mean"] == pytest.approx(2 * np.log(4) / 4)
    assert found["mismatch/ratio_max"] == pytest.approx(4, rel=1e-5)
    assert found["mismatch/share_over"] == 0.5
    with pytest.raises(NumericsError, match="temperature 1"):
        mismatch.alarm(Mismatch(), found, "here", rounded=False)
    mismatch.alarm(Mismatch(), mismatch.measure(Mismatch(), OLD, OLD + 0.01, one), "here", rounded=False)
    with pytest.raises(NumericsError):
        mismatch.alarm(Mismatch(), mismatch.measure(Mismatch(), OLD * float("nan"), OLD, one), "here", rounded=False)
    assert mismatch.measure(Mismatch(), OLD[:0], OLD[:0], one[:0]) == {}


def test_one_prompt_of_many_is_no_alarm_and_all_of_them_are() -> None:
    """Prompt means .31, .01, .01, .06, .02: mean .082, standard error .058, so the sure part is -.033; token mean .0977."""
    gaps, sizes = [0.31, 0.01, 0.01, 0.06, 0.02], [10, 10, 5, 10, 10]
    prompt = torch.arange(5).repeat_interleave(torch.tensor(sizes)) + 7
    gap = torch.tensor(gaps).repeat_interleave(torch.tensor(sizes))
    zero = torch.zeros(len(gap))
    found = mismatch.measure(Mismatch(alarm_gap=0.3), gap, zero, prompt)
    assert found["mismatch/abs_mean"] == pytest.approx(np.average(gaps, weights=sizes))
    assert found["mismatch/abs_low"] == pytest.approx(np.mean(gaps) - 2 * np.std(gaps, ddof=1) / 5**0.5)
    assert found["mismatch/share_over"] == pytest.approx(10 / 45)
    assert found["mismatch/share_low"] == pytest.approx(0.2 - 2 * np.std([1, 0, 0, 0, 0], ddof=1) / 5**0.5)
    mismatch.alarm(Mismatch(), found, "here", rounded=True)
    with pytest.raises(NumericsError):  # float32 does not round that far
        mismatch.alarm(Mismatch(), found, "here", rounded=False)
    with pytest.raises(NumericsError, match=r"over prompts at least 0\.25"):
        mismatch.alarm(Mismatch(), mismatch.measure(Mismatch(), zero + 0.25, zero, prompt), "here", rounded=True)
    alone = mismatch.measure(Mismatch(), gap[:10], zero[:10], prompt[:10])
    with pytest.raises(NumericsError):
        mismatch.alarm(Mismatch(), alone, "here", rounded=True)


def test_the_alarms_are_wider_in_bfloat16_alone() -> None:
    exact, rounded = (mismatch.limits(PolicyGradientConfig(dtype=kind)) for kind in ("float32", "bfloat16"))
    assert (exact.alarm_mean, exact.alarm_gap) == (0.05, 0.5)
    assert (rounded.alarm_mean, rounded.alarm_gap, rounded.alarm_share) == (0.1, 1.0, exact.alarm_share)
