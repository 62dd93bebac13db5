"""The selective state space mixer (Mamba) on [B, L, E] tensors.

It reads a whole sequence, or it continues one: a call that gets the state of an earlier call goes on where that call stopped.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instar.components.continuous.conv import causal_conv
from instar.kernels.selective_scan import dispatch, reference

Carried = tuple[Tensor, Tensor]
"""State between calls: the last W-1 inputs of the convolution [B, W-1, E], and the scan's h [B, E, N]. Before a sequence, both are
zero."""


class Selective(nn.Module):
    """Convolution, SiLU, selective scan. It has E channels with N states each. Step sizes go through a bottleneck of `rank`."""

    def __init__(self, channels: int, states: int, taps: int, rank: int) -> None:
        super().__init__()
        self.sizes = [rank, states, states]
        self.conv_weight = nn.Parameter(torch.empty(channels, taps))
        self.conv_bias = nn.Parameter(torch.empty(channels))
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.empty(channels, states))
        self.D = nn.Parameter(torch.empty(channels))

    def forward(self, u: Tensor, mask: Tensor | None, carried: Carried | None) -> tuple[Tensor, Carried]:
        """Return y [B, L, E] and the state after the last step.

        `u` must be zero where `mask` [B, L] is 0. Such steps do not change the state, and the convolution sees zeros there, as
        before a sequence.
        """
        taps = self.conv_weight.shape[1]
        if carried is not None:
            u = torch.cat([carried[0], u], dim=1)
        x = causal_conv(u, self.conv_weight, self.conv_bias)
        x = F.silu(x if carried is None else x[:, taps - 1 :])
        low, B, C = self.x_proj(x).split(self.sizes, dim=-1)
        delta = F.softplus(self.dt_proj(low))
        if mask is not None:
            delta = delta * mask[..., None]
        A = -torch.exp(self.A_log)
        if carried is None:
            y, h = dispatch.selective_scan(x, delta, A, B, C, self.D)
        else:
            # Acting reads three tokens. For so few, a plain loop is faster than preparing a parallel scan.
            y, h = reference.selective_scan(x, delta, A, B, C, self.D, carried[1])
        return y, (u[:, max(u.shape[1] - taps + 1, 0) :], h)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights. Every channel starts with A = -(1..N) and D = 1.

        The bias of the step sizes is chosen so that softplus(bias) is log-uniform in [1e-3, 1e-1], and at least 1e-4.
        """
        channels, states = self.A_log.shape
        self.A_log.copy_(torch.arange(1, states + 1).log().expand(channels, states))
        self.D.fill_(1.0)
        bound = 1 / math.sqrt(self.conv_weight.shape[1])
        self.conv_weight.uniform_(-bound, bound, generator=generator)
        self.conv_bias.uniform_(-bound, bound, generator=generator)
        bound = 1 / math.sqrt(self.sizes[0])
        self.dt_proj.weight.uniform_(-bound, bound, generator=generator)
        step = torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp().clamp(min=1e-4)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))


class Mixer(nn.Module):
    """A complete mixer: input projection, selective scan, gate, output projection. Input and output have width d."""

    def __init__(self, width: int, channels: int, states: int, taps: int, rank: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * channels, bias=False)
        self.selective = Selective(channels, states, taps, rank)
        self.out_proj = nn.Linear(channels, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, carried: Carried | None) -> tuple[Tensor, Carried]:
        """Return [B, L, d] and the carried state. x [B, L, d] must be zero where mask is 0. The result is zero there too."""
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        y, state = self.selective(u, mask, carried)
        return self.out_proj(y * F.silu(gate)), state
