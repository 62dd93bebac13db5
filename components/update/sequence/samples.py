"""Minibatches of windows as tensors: what the policy reads, and what its predictions are compared with.

The action target is (1 - beta) a + beta a_hat, in the model's units (Decision Mamba section 4, PSER). a is the logged action and
a_hat the past policy's. a_hat is a constant that the rollout computed. If the target moved with the learner, it would only scale
the learner's gradient.

A minibatch is taken from flat arrays by indexing.
Shapes: M windows of the batch, B windows of a minibatch, K steps of a window, S numbers of a state, A numbers of an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instar.components.continuous.actor import check_fits
from instar.components.continuous.model import ContinuousPolicy
from instar.components.trajectories import Trajectories
from instar.components.update.sequence.batch import Labelled


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """B windows, padded on the left. Targets are in the model's units. Nothing may read what they hold at padding."""

    states: Tensor
    """[B, K, S], as logged"""
    actions: Tensor
    """[B, K, A], as logged, in the environment's units"""
    returns_to_go: Tensor
    """[B, K], scaled"""
    timesteps: Tensor
    """[B, K]"""
    mask: Tensor
    """[B, K] bool"""
    logged: Tensor
    """[B, K, A]: the logged action"""
    target: Tensor
    """[B, K, A]: the action to predict"""
    next_states: Tensor
    """[B, K, S], standardised"""
    next_returns: Tensor
    """[B, K], scaled"""
    follows: Tensor
    """[B, K] bool: whether the episode has a next step, inside the window or behind it"""

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the arguments of the policy's forward pass."""
        return self.states, self.actions, self.returns_to_go, self.timesteps, self.mask


class Samples:
    """All windows of a batch. `take` returns minibatches of them."""

    def __init__(self, data: Trajectories, batch: Labelled, model: ContinuousPolicy, device: str) -> None:
        check_fits(model, data, "update")
        self.units, self.device, windows = model.units, device, batch.windows

        def tensor(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(
                device
            )  # Arrow's memory is read-only

        self._states, self._actions = tensor(data.observations), tensor(data.actions)
        self._returns = tensor(data.returns_to_go / model.task.return_scale)
        self._rows, self._after = tensor(windows.rows), tensor(windows.after)
        self._mask, self._timesteps = tensor(windows.mask), tensor(windows.timesteps)
        self._follows = tensor(windows.mask & ~windows.last)
        self._begin, self._starts = tensor(data.offsets[windows.episodes] + windows.starts), tensor(windows.starts)
        self._label, self._delayed = tensor(batch.label), tensor(batch.delayed)
        self._beta, self._proposed, self._first = tensor(batch.beta), tensor(batch.proposed), tensor(batch.first)

    def take(self, index: Tensor) -> Sample:
        """Return the windows numbered `index` [B]."""
        rows, after = self._rows[index], self._after[index]
        mask, timesteps = self._mask[index], self._timesteps[index]
        actions = self._actions[rows]
        logged = self.units.from_box(actions)
        return Sample(
            states=self._states[rows],
            actions=actions,
            returns_to_go=self._conditions(index, rows),
            timesteps=timesteps,
            mask=mask,
            logged=logged,
            target=self._blend(index, logged, timesteps),
            next_states=self.units.standardise(self._states[after]),
            next_returns=self._conditions(index, after),
            follows=self._follows[index],
        )

    def _conditions(self, index: Tensor, rows: Tensor) -> Tensor:
        """Return the return-to-go at `rows` [B, K]: the label less the rewards since the window's first step.

        A delayed return-to-go is the label at every step.
        """
        spent = self._returns[rows] - self._returns[self._begin[index]][:, None]
        spent = spent.masked_fill(self._delayed[index][:, None], 0.0)
        return (self._label[index][:, None] + spent).to(torch.float32)

    def _blend(self, index: Tensor, logged: Tensor, timesteps: Tensor) -> Tensor:
        """Return the action target: the logged action mixed with the past policy's."""
        if not len(self._proposed):
            return logged
        within = (timesteps - self._starts[index][:, None]).clamp(min=0)
        proposed = self.units.from_box(self._proposed[self._first[index][:, None] + within])
        beta = self._beta[index].to(logged.dtype)[:, None, None]
        return (1 - beta) * logged + beta * proposed
