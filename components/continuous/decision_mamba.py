"""Decision Mamba. Every layer has a coarse scan over all 3K tokens and a fine scan over K groups, one group per step.

The group of step t is (a_{t-1}, R_t, s_t). It ends before the action of its own step. The result of the fine scan for group t
is added to the three tokens of step t. The action a_t is predicted from the token s_t. So the prediction depends on nothing
after s_t.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instar.components.continuous import acting
from instar.components.continuous.acting import ActingState
from instar.components.continuous.config import DecisionMambaArch
from instar.components.continuous.mixer import Carried, Mixer, Selective
from instar.components.continuous.model import ContinuousConfig, ContinuousOutput, ContinuousPolicy
from instar.components.continuous.tokens import Heads, Tokens

Memory = dict[str, Tensor]
"""What a layer carries from step to step while acting: `coarse_conv` and `coarse_h`. With a fine scan also `fine_conv`,
`fine_h` and `feature`, which is the result of the fine scan for the last group."""


class Layer(nn.Module):
    """One layer: norm, both scans, residual. Without `memory` it reads whole windows. With it, the tokens a_{t-1}, R_t, s_t."""

    def __init__(self, arch: DecisionMambaArch) -> None:
        super().__init__()
        self.grouping = arch.grouping
        self.norm = nn.RMSNorm(arch.width, eps=1e-5)
        self.group = nn.Linear(3 * arch.width, arch.width) if arch.fine else None

    def groups(self, x: Tensor, mask: Tensor | None, stepping: bool) -> Tensor:
        """Return one vector per group, [B, K, d]: a linear map of the group's three tokens. It is zero at padded steps."""
        assert self.group is not None
        if self.grouping == "released":  # (R_t, s_t, a_t); only the last action of a window is set to zero
            x = F.pad(x[:, :-1], (0, 0, 0, 1))
        elif not stepping:  # a step's three tokens are already in the order of the shifted group
            x = F.pad(x[:, :-1], (0, 0, 1, 0))
        out: Tensor = self.group(x.reshape(x.shape[0], -1, 3 * x.shape[-1]))
        return out if mask is None or stepping else out * mask[:, 1::3, None]

    def spread(self, feature: Tensor, memory: Memory | None) -> Tensor:
        """Return the features of groups [B, K, .], repeated for the tokens [B, 3K, .] of their steps."""
        if memory is not None:  # a_{t-1} is a token of the step before
            return torch.cat([memory["feature"], feature, feature], dim=1)
        if self.grouping == "released":  # as in the published code: token p gets the feature of group p mod K
            return feature.repeat(1, 3, 1)
        return feature.repeat_interleave(3, dim=1)


class TwoMixers(Layer):
    """Two complete mixers. The result of the fine one is normalised. Both results are added to the residual stream."""

    def __init__(self, arch: DecisionMambaArch) -> None:
        super().__init__(arch)
        sizes = (arch.expand * arch.width, arch.state_size, arch.conv, math.ceil(arch.width / 16))
        self.coarse = Mixer(arch.width, *sizes)
        self.fine = Mixer(arch.width, *sizes) if arch.fine else None
        self.fine_norm = nn.LayerNorm(arch.width) if arch.fine else None

    def forward(self, h: Tensor, mask: Tensor | None, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Return the residual stream [B, 3K, d] after this layer and what the layer carries on. `mask` [B, 3K]."""
        x = self.norm(h) if mask is None else self.norm(h) * mask[..., None]
        mixed, coarse = self.coarse(x, mask, _carried(memory, "coarse"))
        if self.fine is None or self.fine_norm is None:
            return h + mixed, _memory(coarse)
        stepping = memory is not None
        groups = self.groups(x, mask, stepping)
        feature, fine = self.fine(groups, _group_mask(mask, stepping), _carried(memory, "fine"))
        feature = self.fine_norm(feature)
        return h + mixed + self.spread(feature, memory), _memory(coarse, fine, feature[:, -1:])


class SharedGate(Layer):
    """Two scans under one gate and one output projection: out((coarse + fine) * SiLU(gate))."""

    def __init__(self, arch: DecisionMambaArch) -> None:
        super().__init__(arch)
        channels = arch.expand * arch.width
        sizes = (channels, arch.state_size, arch.conv, math.ceil(arch.width / 16))
        self.in_proj = nn.Linear(arch.width, 2 * channels, bias=False)
        self.coarse = Selective(*sizes)
        self.fine_in = nn.Linear(arch.width, channels, bias=False) if arch.fine else None
        self.fine = Selective(*sizes) if arch.fine else None
        self.out_proj = nn.Linear(channels, arch.width, bias=False)

    def forward(self, h: Tensor, mask: Tensor | None, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Return the residual stream [B, 3K, d] after this layer and what the layer carries on. `mask` [B, 3K]."""
        x = self.norm(h) if mask is None else self.norm(h) * mask[..., None]
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        mixed, coarse = self.coarse(u, mask, _carried(memory, "coarse"))
        if self.fine is None or self.fine_in is None:
            return h + self.out_proj(mixed * F.silu(gate)), _memory(coarse)
        stepping = memory is not None
        groups = self.fine_in(self.groups(x, mask, stepping))
        feature, fine = self.fine(groups, _group_mask(mask, stepping), _carried(memory, "fine"))
        mixed = mixed + self.spread(feature, memory)
        return h + self.out_proj(mixed * F.silu(gate)), _memory(coarse, fine, feature[:, -1:])


def _group_mask(mask: Tensor | None, stepping: bool) -> Tensor | None:
    return None if mask is None or stepping else mask[:, 1::3]


def _carried(memory: Memory | None, name: str) -> Carried | None:
    return None if memory is None else (memory[f"{name}_conv"], memory[f"{name}_h"])


def _memory(coarse: Carried, fine: Carried | None = None, feature: Tensor | None = None) -> Memory:
    memory = {"coarse_conv": coarse[0], "coarse_h": coarse[1]}
    if fine is not None and feature is not None:
        memory |= {"fine_conv": fine[0], "fine_h": fine[1], "feature": feature}
    return memory


class DecisionMambaConfig(ContinuousConfig):
    """Stored configuration of a Decision Mamba policy."""

    model_type: ClassVar[str] = "instar_decision_mamba"


class DecisionMamba(ContinuousPolicy):
    """The policy: tokens, layers, a final RMSNorm and the heads."""

    config_class = DecisionMambaConfig
    arch_class = DecisionMambaArch
    arch: DecisionMambaArch  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: ContinuousConfig) -> None:
        super().__init__(config)
        arch, task = self.arch, self.task
        self.tokens = Tokens(task.state_dim, task.action_dim, arch.width, arch.max_timestep, arch.encoder)
        kind = {"two_mixers": TwoMixers, "shared_gate": SharedGate}[arch.fusion]
        self.layers = nn.ModuleList(kind(arch) for _ in range(arch.layers))
        self.norm = nn.RMSNorm(arch.width, eps=1e-5)
        self.heads = Heads(arch.width, task.state_dim, task.action_dim, arch.head, arch.auxiliary)
        self.post_init()

    def predict(
        self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> ContinuousOutput:
        """Return the predictions for whole windows; see `ContinuousPolicy.forward`."""
        h = self.tokens(returns, states, actions, timesteps)
        spread = None if mask is None else mask.to(h.dtype).repeat_interleave(3, dim=1)
        for layer in self.layers:
            h, _ = layer(h, spread, None)
        return ContinuousOutput(*self.heads(self.norm(h)))

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        """Return the state before `batch` episodes, all zero: a window, or the tensors of `Memory` for every layer."""
        arch, like = self.arch, self.units.state_mean
        if window or arch.grouping == "released":
            return acting.window_state(batch, arch.window, self.task, like)
        channels = arch.expand * arch.width
        shapes = {"coarse_conv": (arch.conv - 1, channels), "coarse_h": (channels, arch.state_size)}
        if arch.fine:
            shapes |= {"fine_conv": (arch.conv - 1, channels), "fine_h": (channels, arch.state_size)}
            shapes |= {"feature": (1, arch.width if arch.fusion == "two_mixers" else channels)}
        tensors = {f"{i}/{k}": like.new_zeros(batch, *v) for i in range(arch.layers) for k, v in shapes.items()}
        started = torch.zeros(batch, dtype=torch.bool, device=like.device)
        return ActingState(kind="carried", tensors={"started": started, **tensors})

    def advance(
        self, tensors: dict[str, Tensor], states: Tensor, previous_actions: Tensor, returns: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Read the three tokens a_{t-1}, R_t, s_t. In a row that starts an episode, the token a_{t-1} is padding."""
        started = tensors["started"]
        always = torch.ones_like(started)
        h = self.tokens.step(previous_actions, returns, states, timesteps)
        mask = torch.stack([started, always, always], dim=1).to(h.dtype)
        carried = {"started": always}
        for i, layer in enumerate(self.layers):
            memory = {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{i}/")}
            h, memory = layer(h, mask, memory)
            carried |= {f"{i}/{k}": v for k, v in memory.items()}
        return self.heads.act(self.norm(h[:, -1])), carried
