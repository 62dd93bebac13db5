"""Small policies and windows, with scans whose memory matters from the first step on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from instar.components.continuous.build import build
from instar.components.continuous.config import (
    Arch,
    BcArch,
    ContinuousTask,
    DecisionMambaArch,
    DecisionTransformerArch,
)
from instar.components.continuous.decision_mamba import DecisionMamba, Layer
from instar.components.continuous.mixer import Selective
from instar.components.continuous.model import ContinuousOutput, ContinuousPolicy

TASK = ContinuousTask(
    env="Test-v0",
    state_dim=3,
    action_dim=2,
    action_low=(-2.0, 0.0),
    action_high=(2.0, 1.0),
    state_mean=(0.5, -1.0, 0.0),
    state_std=(2.0, 1.0, 0.5),
    return_scale=10.0,
)


def mamba(steps: int = 6, layers: int = 2, **changes: object) -> DecisionMambaArch:
    """A narrow Decision Mamba with a window of `steps`."""
    small = {"width": 8, "state_size": 4, "max_timestep": 40, "window": steps, "layers": layers}
    return DecisionMambaArch(**{**small, **changes})  # type: ignore[arg-type]


def transformer(steps: int = 6) -> DecisionTransformerArch:
    """A narrow Decision Transformer."""
    return DecisionTransformerArch(width=8, heads=2, max_timestep=40, window=steps, auxiliary=True)


ARCHS: dict[str, Arch] = {
    "two_mixers": mamba(),
    "shared_gate": mamba(fusion="shared_gate"),
    "coarse": mamba(fine=False),
    "coarse_shared": mamba(fine=False, fusion="shared_gate"),
    "linear": mamba(encoder="linear", head="linear", auxiliary=False),
    "transformer": transformer(),
    "bc": BcArch(width=8, window=6),
}


def policy(arch: Arch, seed: int = 3, kind: torch.dtype = torch.float64) -> ContinuousPolicy:
    """A policy whose scans take steps of about 0.7 instead of 0.01, so that every path shows in the output."""
    model = build(arch, TASK, seed)
    nn.Module.to(model, kind)
    for module in model.modules():
        if isinstance(module, Selective):
            module.dt_proj.bias.data.zero_()
    return model


def first_layer(model: ContinuousPolicy) -> Layer:
    """The first layer of a Decision Mamba."""
    assert isinstance(model, DecisionMamba)
    layer = model.layers[0]
    assert isinstance(layer, Layer)
    assert layer.group is not None
    return layer


def group_map(layer: Layer) -> nn.Linear:
    """The dense map of a layer's groups."""
    assert layer.group is not None
    return layer.group


@dataclass
class Window:
    """A batch of windows in the environment's units."""

    states: Tensor
    actions: Tensor
    returns: Tensor
    timesteps: Tensor
    mask: Tensor

    def args(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.states, self.actions, self.returns, self.timesteps, self.mask

    def rows(self, index: slice | list[int]) -> Window:
        return Window(*(x[index] for x in self.args()))

    def steps(self, index: slice) -> Window:
        return Window(*(x[:, index] for x in self.args()))


def window(batch: int, steps: int, seed: int = 0, kind: torch.dtype = torch.float64) -> Window:
    """Full windows of random contents."""
    g = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(TASK.action_low), torch.tensor(TASK.action_high)
    return Window(
        torch.randn(batch, steps, 3, generator=g).to(kind),
        (low + (high - low) * torch.rand(batch, steps, 2, generator=g)).to(kind),
        torch.randn(batch, steps, generator=g).to(kind),
        torch.arange(steps).expand(batch, steps).clone(),
        torch.ones(batch, steps, dtype=torch.bool),
    )


def run(model: ContinuousPolicy, w: Window) -> ContinuousOutput:
    output: ContinuousOutput = model(*w.args())
    return output


def episode(model: ContinuousPolicy, w: Window, *, re_read: bool = False) -> Tensor:
    """Actions [B, T, A] in the box from stepping through the window's steps."""
    state, acted = model.init_state(w.states.shape[0], window=re_read), []
    for t in range(w.states.shape[1]):
        previous = w.actions[:, t - 1] if t else None
        action, state = model.step(state, w.returns[:, t], w.states[:, t], previous, w.timesteps[:, t])
        acted.append(action)
    return torch.stack(acted, dim=1)
