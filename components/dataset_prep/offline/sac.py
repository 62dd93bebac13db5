"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) for one environment on one CPU core. It makes policies to record.

It is written to need little CPU time. Both critics are one batched matrix product, and acting uses numpy on views of the
weights. Each hidden layer of the critics has a LayerNorm, which keeps them stable at this learning rate. All random numbers
come from generators with the job's seed. The global generators are not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from instar.components.dataset_prep.offline.episodes import Doubles, Singles
from instar.seeds import torch_generator

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


@dataclass(frozen=True, kw_only=True)
class SacConfig:
    """Settings. The memory holds `capacity` transitions. After `warmup` random steps there is one update per step."""

    width: int = 128
    batch: int = 128
    learning_rate: float = 5e-4
    discount: float = 0.99
    average: float = 0.005
    capacity: int = 1_000_000
    warmup: int = 5_000


class Sac:
    """An actor, two critics and their moving averages, a temperature, and a memory. Actions are in [-1, 1]."""

    def __init__(self, state_dim: int, action_dim: int, config: SacConfig, seed: int) -> None:
        self.config, self.action_dim = config, action_dim
        self.generator = torch_generator(seed)
        self.rng = np.random.Generator(np.random.PCG64(seed))
        width = config.width
        self.actor = self._weights(1, [state_dim, width, width, 2 * action_dim])
        self.critic = self._weights(2, [state_dim + action_dim, width, width, 1])
        self.target = [w.detach().clone() for w in self.critic]
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.optimisers = [
            torch.optim.Adam(group, lr=config.learning_rate, fused=True)
            for group in (self.actor, self.critic, [self.log_alpha])
        ]
        self.memory = np.zeros((config.capacity, 2 * state_dim + action_dim + 2), np.float32)
        self.widths = [state_dim, action_dim, 1, 1, state_dim]
        self.size = 0

    def remember(self, state: Doubles, action: Singles, reward: float, terminal: bool, following: Doubles) -> None:
        """Store one transition. When the memory is full, it replaces the oldest. A time-out is not terminal."""
        row = self.memory[self.size % self.config.capacity]
        s, a = self.widths[0], self.action_dim
        row[:s], row[s : s + a], row[s + a], row[s + a + 1], row[s + a + 2 :] = (
            state,
            action,
            reward,
            terminal,
            following,
        )
        self.size += 1

    def act(self, state: npt.NDArray[np.floating], rng: np.random.Generator | None = None) -> Singles:
        """Return an action for one state. With `rng` it is drawn at random. Without it, it is tanh of the mean."""
        hidden = state.astype(np.float32)
        layers = [w.detach().numpy()[0] for w in self.actor]
        for weight, bias in zip(layers[0:4:2], layers[1:4:2], strict=True):
            hidden = np.maximum(hidden @ weight + bias[0], 0.0)
        mean, log_std = np.split(hidden @ layers[4] + layers[5][0], 2)
        if rng is not None:
            mean = mean + np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)) * rng.standard_normal(self.action_dim)
        action: Singles = np.tanh(mean).astype(np.float32)
        return action

    def update(self) -> None:
        """Take one gradient step on the critics, the actor and the temperature. Then update the moving averages."""
        config, pick = self.config, self.rng.integers(min(self.size, self.config.capacity), size=self.config.batch)
        state, action, reward, terminal, following = torch.split(
            torch.from_numpy(self.memory[pick]), self.widths, dim=1
        )
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, log_prob = self._sample(following)
            value = self._values(self.target, following, next_action).amin(0) - alpha * log_prob
            goal = reward + config.discount * (1.0 - terminal) * value
        self._descend(1, (self._values(self.critic, state, action) - goal).square().sum(0).mean())
        drawn, log_prob = self._sample(state)
        frozen = [w.detach() for w in self.critic]
        self._descend(0, (alpha * log_prob - self._values(frozen, state, drawn).amin(0)).mean())
        self._descend(2, (self.log_alpha.exp() * (self.action_dim - log_prob.detach()).mean()).sum())
        for average, weight in zip(self.target, frozen, strict=True):
            average.lerp_(weight, config.average)

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimisers[which].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers[which].step()

    def _weights(self, copies: int, sizes: list[int]) -> list[Tensor]:
        """Return weights [copies, in, out] and biases [copies, 1, out], layer after layer. They are uniform within 1/sqrt(in)."""
        out = []
        for inner, outer in pairwise(sizes):
            for shape in ((copies, inner, outer), (copies, 1, outer)):
                uniform = torch.rand(shape, generator=self.generator) * 2.0 - 1.0
                out.append((uniform / math.sqrt(inner)).requires_grad_())
        return out

    def _values(self, weights: list[Tensor], state: Tensor, action: Tensor) -> Tensor:
        """Return the values of both critics, [2, batch, 1]."""
        hidden = torch.cat([state, action], dim=1).expand(2, -1, -1)
        for weight, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
            hidden = F.relu(F.layer_norm(torch.baddbmm(bias, hidden, weight), (self.config.width,)))
        return torch.baddbmm(weights[5], hidden, weights[4])

    def _sample(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions [batch, A] and their log-probabilities [batch, 1]. An action is tanh of a normal variable."""
        hidden = state
        for weight, bias in zip(self.actor[0:4:2], self.actor[1:4:2], strict=True):
            hidden = F.relu(torch.addmm(bias[0], hidden, weight[0]))
        mean, log_std = torch.addmm(self.actor[5][0], hidden, self.actor[4][0]).chunk(2, dim=1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        noise = torch.randn(mean.shape, generator=self.generator)
        raw = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2x))
        squash = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
        return raw.tanh(), log_prob.sum(1, keepdim=True)
