"""What a continuous-control policy is made of and what it acts in: plain values, no torch.

`Arch` is the union of the architectures; `strategy` picks one. `window` is the number of steps (K) a training window
holds; every architecture has it, so that all train on the same windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar.errors import ConfigError

Shape: TypeAlias = Literal["mlp", "linear", "auto"]
"""Of encoders and head. `auto` is what was published for the environment (linear for Hopper); dataset preparation, which knows
the environment, puts that in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMambaArch:
    """Two selective scans per layer: over all tokens, and over one group of tokens per step."""

    strategy: Literal["decision_mamba"] = "decision_mamba"
    width: int = 64
    """Width of the residual stream (d)."""
    layers: int = 2
    state_size: int = 16
    """State of one channel of a scan (N)."""
    expand: int = 2
    """Channels of a scan over the width (E = expand * d)."""
    conv: int = 4
    """Taps of the causal convolution in front of a scan."""
    window: int = 10
    max_timestep: int = 1000
    """Length of the table of timestep embeddings; a longer episode is an error."""
    fusion: Literal["two_mixers", "shared_gate"] = "two_mixers"
    """`two_mixers`: complete mixers, added. `shared_gate`: one gate and one output projection for both scans."""
    fine: bool = True
    """False removes the scan over groups: the ablation without multi-grained fusion."""
    grouping: Literal["shifted", "released"] = "shifted"
    """`shifted`: a group ends before its own action. `released`: the published code, which shows the model its target.

    It exists to measure that leak and cannot act recurrently.
    """
    encoder: Shape = "mlp"
    head: Shape = "mlp"
    auxiliary: bool = True
    """Predict the next state and the next return from the action token."""

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "state_size", "expand", "conv", "window", "max_timestep")
        if self.grouping == "released" and not self.fine:
            raise _bad("fine=true with grouping 'released'", self.fine, "fine", "grouping is about the fine scan")

    def explain(self) -> list[str]:
        """State the layers, and what the action depends on."""
        layers = (
            f"{self.layers} layers of width {self.width}, selective scan with state {self.state_size} over 3K tokens"
        )
        group = (
            "(a_t-1, R_t, s_t)" if self.grouping == "shifted" else "(R_t, s_t, a_t), which shows the model its target"
        )
        fine = f" and over K groups {group}; fusion {self.fusion}" if self.fine else ", no fine scan"
        leak = ", and of a_t: the target leaks" if self.grouping == "released" else " and never of a_t"
        return [f"{self.strategy}: {layers}{fine}", _reading(self, leak)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTransformerArch:
    """Causal attention over the same tokens.

    Encoders and head default to those of Decision Mamba, so that only the layers differ. The published ones are linear,
    and score about half on the mixed Pendulum data after 600 updates.
    """

    strategy: Literal["decision_transformer"] = "decision_transformer"
    width: int = 64
    layers: int = 2
    heads: int = 1
    window: int = 10
    max_timestep: int = 1000
    encoder: Shape = "mlp"
    head: Shape = "mlp"
    auxiliary: bool = False

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "heads", "window", "max_timestep")
        if self.width % self.heads:
            raise _bad(f"a divisor of width {self.width}", self.heads, "heads", "choose one, for example 1")

    def explain(self) -> list[str]:
        """State the layers, and what the action depends on."""
        layers = (
            f"{self.layers} layers of width {self.width}, causal attention with {self.heads} head(s) over 3K tokens"
        )
        return [f"{self.strategy}: {layers}", _reading(self, " and never of a_t")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BcArch:
    """Behaviour cloning: a multi-layer perceptron on the standardised state alone. No return, no history."""

    strategy: Literal["bc"] = "bc"
    width: int = 128
    layers: int = 2
    """Hidden layers."""
    window: int = 10
    """Steps of a training window; the policy itself sees one step at a time."""

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "window")

    def explain(self) -> list[str]:
        """State what the action depends on."""
        return [f"a_hat_t = tanh f(s_t), multi-layer perceptron of {self.layers} x {self.width}: no return, no history"]


Arch: TypeAlias = DecisionMambaArch | DecisionTransformerArch | BcArch


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousTask:
    """What a policy acts in, stored with its weights so that it acts the same wherever it is loaded."""

    env: str
    """Environment id, for example Pendulum-v1."""
    state_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    """Corners of the action box, in the environment's units."""
    action_high: tuple[float, ...]
    state_mean: tuple[float, ...]
    """Mean and standard deviation of the states of the data; the policy standardises with them."""
    state_std: tuple[float, ...]
    return_scale: float = 1.0
    """A return-to-go is divided by this before the policy sees it."""

    def __post_init__(self) -> None:
        _positive(self, "state_dim", "action_dim")
        for name, dim in (("action", self.action_dim), ("state", self.state_dim)):
            for field in ("low", "high") if name == "action" else ("mean", "std"):
                _vector(getattr(self, f"{name}_{field}"), dim, f"{name}_{field}")
        for low, high in zip(self.action_low, self.action_high, strict=True):
            if not low < high:
                raise _bad("action_low < action_high", (low, high), "action_high", "give a box with an inside")
        if min(self.state_std) <= 0:
            raise _bad("positive deviations", min(self.state_std), "state_std", "add 1e-6 to constant dimensions")
        if not (math.isfinite(self.return_scale) and self.return_scale > 0):
            raise _bad("a positive number", self.return_scale, "return_scale", "divide returns by something positive")


def _reading(arch: DecisionMambaArch | DecisionTransformerArch, leak: str) -> str:
    """State what a sequence model predicts the action from."""
    heads = "; s_hat_t+1 and R_hat_t+1 from the token of a_t" if arch.auxiliary else ""
    read = f"a_hat_t = tanh head(s_t), a function of R_1, s_1, a_1, ..., R_t, s_t{leak}"
    return f"{read}{heads}; encoder {arch.encoder}, head {arch.head}"


def _positive(value: Any, *fields: str) -> None:
    for field in fields:
        if getattr(value, field) < 1:
            raise _bad(">= 1", getattr(value, field), field, "raise it")


def _vector(values: tuple[float, ...], dim: int, field: str) -> None:
    if len(values) != dim or not all(map(math.isfinite, values)):
        raise _bad(f"{dim} finite numbers", values, field, "take them from the data set or the environment")


def _bad(expected: str, found: object, field: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=repr(found), where=f"continuous:{field}", action=action)
