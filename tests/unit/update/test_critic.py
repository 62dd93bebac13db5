"""Generalised advantage estimation and the clipped value loss against hand-computed values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from instar.components.update.critic import gae, value_head, value_loss


@pytest.mark.parametrize(("gamma", "lam", "expected"), [(1, 1, [0.5, 0.6, 0.4]), (0.99, 0.95, [0.4323, 0.5702, 0.4])])
def test_gae(gamma: float, lam: float, expected: list[float]) -> None:
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.4, 0.6])
    np.testing.assert_allclose(gae(rewards, values, np.array([0, 3]), gamma, lam), expected, atol=5e-5)


def test_gae_does_not_leak_between_sequences() -> None:
    rng = np.random.default_rng(0)
    rewards, values, offsets = rng.normal(size=7), rng.normal(size=7), np.array([0, 1, 5, 7])
    parts = [gae(rewards[a:b], values[a:b], np.array([0, b - a]), 0.9, 0.8) for a, b in itertools.pairwise(offsets)]
    np.testing.assert_allclose(gae(rewards, values, offsets, 0.9, 0.8), np.concatenate(parts))


def test_with_gamma_and_lambda_1_the_target_is_the_return() -> None:
    rewards, values = np.array([0.0, -0.1, 1.0]), np.array([3.0, -2.0, 0.5])
    target = gae(rewards, values, np.array([0, 3]), 1.0, 1.0) + values
    np.testing.assert_allclose(target, [0.9, 0.9, 1.0])


def test_value_loss_takes_the_worse_of_both() -> None:
    values, old, returns = (torch.tensor([x]) for x in (1.0, 0.0, 2.0))
    # Clipped to 0.2, the value is 1.8 away instead of 1.
    assert float(value_loss(values, old, returns, 0.2)) == pytest.approx(0.5 * 1.8**2)
    assert float(value_loss(values, old, -returns, 0.2)) == pytest.approx(0.5 * 3.0**2)


def test_the_head_starts_at_zero() -> None:
    head = value_head(5)
    assert not any(p.any() for p in head.parameters())
