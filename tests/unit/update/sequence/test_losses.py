"""The loss against numbers worked out by hand, and what it must not read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from instar.components.continuous.model import ContinuousOutput
from instar.components.update.sequence.losses import batch_losses, window_losses
from instar.components.update.sequence.samples import Sample

WEIGHTS = (0.9, 0.05, 0.05)


def _sample(mask: list[list[int]], follows: list[list[int]], target: Tensor, states: Tensor, returns: Tensor) -> Sample:
    b, k = len(mask), len(mask[0])
    return Sample(
        states=torch.zeros(b, k, states.shape[-1]),
        actions=target,
        returns_to_go=torch.zeros(b, k),
        timesteps=torch.zeros(b, k, dtype=torch.long),
        mask=torch.tensor(mask, dtype=torch.bool),
        logged=target,
        target=target,
        next_states=states,
        next_returns=returns,
        follows=torch.tensor(follows, dtype=torch.bool),
    )


def _two_steps(junk: float = 7.0) -> tuple[ContinuousOutput, Sample]:
    """One padded slot full of `junk`, then two steps; the episode ends with the second."""
    sample = _sample(
        [[0, 1, 1]],
        [[0, 1, 0]],
        target=torch.tensor([[[junk], [0.25], [0.0]]]),
        states=torch.tensor([[[junk, junk], [1.0, -1.0], [junk, junk]]]),
        returns=torch.tensor([[junk, 0.5, junk]]),
    )
    out = ContinuousOutput(
        actions=torch.tensor([[[0.0], [0.5], [-0.5]]]),
        next_states=torch.tensor([[[0.0, 0.0], [1.5, 2.0], [0.0, 0.0]]]),
        next_returns=torch.tensor([[0.0, -1.5, 0.0]]),
    )
    return out, sample


def test_two_steps_by_hand() -> None:
    out, sample = _two_steps()
    found = {name: float(value) for name, value in batch_losses(out, sample, WEIGHTS).items()}
    action = (0.25**2 + 0.5**2) / 2
    state = (0.5 * 0.5**2 + (3.0 - 0.5)) / 2  # errors 0.5 and 3 of one step with two numbers
    returns = 2.0 - 0.5
    total = 0.9 * action + 0.05 * state + 0.05 * returns
    assert total == 0.28125
    assert found == pytest.approx(
        {"loss": total, "loss/action": action, "loss/state": state, "loss/return": returns}, rel=1e-6
    )


@pytest.mark.parametrize("junk", [0.0, -1e6, float("inf"), float("nan")])
def test_padding_and_ends_are_not_read(junk: float) -> None:
    expected = batch_losses(*_two_steps(), WEIGHTS)
    found = batch_losses(*_two_steps(junk), WEIGHTS)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_padded_predictions_get_no_gradient() -> None:
    out, sample = _two_steps()
    leaves = [t.clone().requires_grad_(True) for t in (out.actions, out.next_states, out.next_returns) if t is not None]
    batch_losses(ContinuousOutput(leaves[0], leaves[1], leaves[2]), sample, WEIGHTS)["loss"].backward()  # type: ignore[no-untyped-call]
    grads = [leaf.grad for leaf in leaves]
    assert all(g is not None for g in grads)
    action, state, returns = (g for g in grads if g is not None)
    assert action[0, :, 0].tolist() == pytest.approx([0.0, 0.9 * 0.25, 0.9 * -0.5])  # w * 2 error / 2 steps
    assert state[0].tolist() == [[0.0, 0.0], pytest.approx([0.05 * 0.5 / 2, 0.05 * 1.0 / 2]), [0.0, 0.0]]
    assert returns[0].tolist() == pytest.approx([0.0, -0.05, 0.0])


def test_without_auxiliary_heads_the_action_term_is_the_loss() -> None:
    out, sample = _two_steps()
    found = batch_losses(dataclasses.replace(out, next_states=None, next_returns=None), sample, WEIGHTS)
    assert set(found) == {"loss", "loss/action"} and float(found["loss"]) == pytest.approx(0.15625)


def test_every_step_counts_the_same_in_a_minibatch_and_every_window_by_itself() -> None:
    target = torch.zeros(2, 3, 1)
    nothing = torch.zeros(2, 3)
    sample = _sample([[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [1, 1, 0]], target, torch.zeros(2, 3, 1), nothing)
    actions = torch.tensor([[[9.0], [9.0], [2.0]], [[1.0], [1.0], [1.0]]])
    out = ContinuousOutput(actions, torch.ones(2, 3, 1), torch.zeros(2, 3))
    assert float(batch_losses(out, sample, WEIGHTS)["loss/action"]) == pytest.approx((4 + 1 + 1 + 1) / 4)
    windows = window_losses(out, sample, WEIGHTS)
    assert windows["loss/action"].tolist() == [4.0, 1.0]
    assert windows["loss/state"].tolist() == [0.0, 0.5]  # the first window's only step has no next one
    assert windows["loss"].tolist() == pytest.approx([0.9 * 4.0, 0.9 * 1.0 + 0.05 * 0.5])
