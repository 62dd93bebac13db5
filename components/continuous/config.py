"""The architectures of continuous-control policies, and the task that they act in. Plain values, no torch.

`Arch` is the union of the architectures. The field `strategy` picks one. `window` is the number of steps (K) of a training window.
Every architecture has this field, so that all of them train on the same windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar.errors import ConfigError

Shape: TypeAlias = Literal["mlp", "linear", "auto"]
"""Shape of the encoders or of the head. `auto` means the shape that was published for the environment, for example `linear` for
Hopper. Dataset preparation knows the environment and replaces `auto`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMambaArch:
    """Decision Mamba. Every layer has two selective scans: one over all tokens, and one over groups, with one group per step."""

    strategy: Literal["decision_mamba"] = "decision_mamba"
    width: int = 64
    """Width of the residual stream (d)."""
    layers: int = 2
    state_size: int = 16
    """Size of the state of one channel of a scan (N)."""
    expand: int = 2
    """A scan has E = expand * d channels, where d is the width."""
    conv: int = 4
    """Taps of the causal convolution in front of a scan."""
    window: int = 10
    max_timestep: int = 1000
    """Length of the table of timestep embeddings. A longer episode is an error."""
    fusion: Literal["two_mixers", "shared_gate"] = "two_mixers"
    """How the two scans of a layer are joined. `two_mixers`: both have their own gate and output projection, and the results are
    added. `shared_gate`: both share one gate and one output projection."""
    fine: bool = True
    """Whether layers have the scan over groups. False is the ablation without multi-grained fusion."""
    grouping: Literal["shifted", "released"] = "shifted"
    """Which tokens form the group of a step. `shifted`: (a_t-1, R_t, s_t), which ends before the step's own action. `released`:
    (R_t, s_t, a_t), as in the published code.

    `released` shows the model the action that it has to predict. It exists to measure this leak. It cannot act recurrently.
    """
    encoder: Shape = "mlp"
    head: Shape = "mlp"
    auxiliary: bool = True
    """Whether the next state and the next return are also predicted, from the action token."""

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "state_size", "expand", "conv", "window", "max_timestep")
        if self.grouping == "released" and not self.fine:
            raise _bad("fine=true when grouping is 'released'", self.fine, "fine", "set fine=true or grouping=shifted")

    def explain(self) -> list[str]:
        """State the layers and what the action depends on."""
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
    """Decision Transformer: causal attention over the same tokens.

    By default, encoders and head are those of Decision Mamba, so that only the layers differ. The published encoders and head are
    linear. They score about half as much on the mixed Pendulum data after 600 updates.
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
    """Behaviour cloning: a multi-layer perceptron that reads only the standardised state. It sees no return and no history."""

    strategy: Literal["bc"] = "bc"
    width: int = 128
    layers: int = 2
    """Hidden layers."""
    window: int = 10
    """Steps of a training window. The policy itself sees one step at a time."""

    def __post_init__(self) -> None:
        _positive(self, "width", "layers", "window")

    def explain(self) -> list[str]:
        """State what the action depends on."""
        return [f"a_hat_t = tanh f(s_t), multi-layer perceptron of {self.layers} x {self.width}: no return, no history"]


Arch: TypeAlias = DecisionMambaArch | DecisionTransformerArch | BcArch


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuousTask:
    """The environment of a policy and its units. It is stored with the weights, so that the policy acts the same wherever it is
    loaded."""

    env: str
    """Name of the environment in Gymnasium, for example Pendulum-v1."""
    state_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    """Smallest value of each dimension of an action, in the environment's units."""
    action_high: tuple[float, ...]
    """Largest value of each dimension of an action."""
    state_mean: tuple[float, ...]
    """Mean of the states in the data. The policy standardises states with it."""
    state_std: tuple[float, ...]
    """Standard deviation of the states in the data."""
    return_scale: float = 1.0
    """A return-to-go is divided by this number before the policy sees it."""

    def __post_init__(self) -> None:
        _positive(self, "state_dim", "action_dim")
        for name, dim in (("action", self.action_dim), ("state", self.state_dim)):
            for field in ("low", "high") if name == "action" else ("mean", "std"):
                _vector(getattr(self, f"{name}_{field}"), dim, f"{name}_{field}")
        for low, high in zip(self.action_low, self.action_high, strict=True):
            if not low < high:
                raise _bad("action_low < action_high", (low, high), "action_high", "make every upper bound larger")
        if min(self.state_std) <= 0:
            raise _bad(
                "positive deviations", min(self.state_std), "state_std", "add 1e-6 to those of constant dimensions"
            )
        if not (math.isfinite(self.return_scale) and self.return_scale > 0):
            raise _bad("a positive number", self.return_scale, "return_scale", "divide returns by something positive")


def _reading(arch: DecisionMambaArch | DecisionTransformerArch, leak: str) -> str:
    """State which values a sequence model predicts the action from."""
    heads = "; s_hat_t+1 and R_hat_t+1 from the token of a_t" if arch.auxiliary else ""
    read = f"a_hat_t = tanh head(s_t), a function of R_1, s_1, a_1, ..., R_t, s_t{leak}"
    return f"{read}{heads}; encoder {arch.encoder}, head {arch.head}"


def _positive(value: Any, *fields: str) -> None:
    for field in fields:
        if getattr(value, field) < 1:
            raise _bad("a value >= 1", getattr(value, field), field, f"set {field} to 1 or more")


def _vector(values: tuple[float, ...], dim: int, field: str) -> None:
    if len(values) != dim or not all(map(math.isfinite, values)):
        raise _bad(f"{dim} finite numbers", values, field, "take them from the data set or the environment")


def _bad(expected: str, found: object, field: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=repr(found), where=f"continuous:{field}", action=action)
