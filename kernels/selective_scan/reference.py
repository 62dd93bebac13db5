"""The definition of the op: one step after the other in plain torch, under autograd.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = C_t . h_t + D u_t

Shapes: B sequences, L steps, E channels, N state entries per channel. The state is float64 for float64 `u`, else
float32; so is `h_last`, while `y` has the type of `u`. A step with delta 0 leaves the state as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from instar.errors import ContractError


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return y [B, L, E] and the last state [B, E, N].

    u [B, L, E], delta [B, L, E] (>= 0, the softplus is the caller's), A [E, N] (negative), B and C [B, L, N], D [E] or
    None, h0 [B, E, N] or None for zeros. A wrong shape is a `ContractError`.
    """
    check_shapes(u, delta, A, B, C, D, h0)
    kind = state_type(u)
    h = u.new_zeros(u.shape[0], *A.shape, dtype=kind) if h0 is None else h0.to(kind)
    rows = []
    for t in range(u.shape[1]):
        y_t, h = step(h, u[:, t], delta[:, t], A, B[:, t], C[:, t], D)
        rows.append(y_t)
    return torch.stack(rows, dim=1) if rows else torch.zeros_like(u), h


def step(
    h: Tensor, u_t: Tensor, delta_t: Tensor, A: Tensor, B_t: Tensor, C_t: Tensor, D: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return y_t [B, E] and the next state [B, E, N]; one step of inference with a carried state.

    h [B, E, N], u_t and delta_t [B, E], A [E, N], B_t and C_t [B, N], D [E] or None. `h` is not changed in place.
    """
    kind = state_type(u_t)
    wide_u, wide_delta = u_t.to(kind), delta_t.to(kind)
    decay = torch.exp(wide_delta[..., None] * A.to(kind))
    h = decay * h.to(kind) + (wide_delta * wide_u)[..., None] * B_t.to(kind)[:, None, :]
    y_t = (h * C_t.to(kind)[:, None, :]).sum(dim=-1)
    if D is not None:
        y_t = y_t + D.to(kind) * wide_u
    return y_t.to(u_t.dtype), h


def state_type(u: Tensor) -> torch.dtype:
    """Return the type of the state: float64 for float64 inputs, else float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def check_shapes(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> None:
    """Raise `ContractError` unless the shapes fit together exactly; nothing is broadcast."""
    if u.ndim != 3 or A.ndim != 2:
        raise _wrong("u [B, L, E] and A [E, N]", f"u {list(u.shape)}, A {list(A.shape)}", "u" if u.ndim != 3 else "A")
    batch, length, channels = u.shape
    states = A.shape[1]
    expected = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (channels,)),
        "h0": (h0, (batch, channels, states)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise _wrong(f"{name} of shape {list(shape)}", str(list(tensor.shape)), name)
        if tensor is not None and tensor.device != u.device:
            raise _wrong(f"{name} on {u.device}, where u is", str(tensor.device), name)


def _wrong(expected: str, found: str, name: str) -> ContractError:
    return ContractError(
        expected=expected, found=found, where=f"selective_scan:{name}", action="compare the argument with the docstring"
    )
