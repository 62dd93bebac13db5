"""Chooses how the operations of a decode step run and says why.

`auto` takes the C++ kernel where it is built and can run, and plain torch everywhere else. With `INSTAR_DECODE_CPP=1` it is
built at the first use; with `INSTAR_DECODE_CPP=0` it is not used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from instar.errors import ConfigError
from instar.kernels.decode import cpp, reference
from instar.kernels.decode.reference import Where, rotate

__all__ = ["Kernel", "Where", "choose", "rotate"]

SWITCH = "INSTAR_DECODE_CPP"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The chosen operations; see `reference` for what they compute."""

    name: Literal["cpp", "torch"]
    reason: str
    attend: Callable[[Tensor, Tensor, Tensor, Where], Tensor]
    add_norm: Callable[[Tensor, Tensor | None, Tensor, float], Tensor]
    silu_mul: Callable[[Tensor], Tensor]


def draws(dtype: torch.dtype, device: str) -> bool:
    """Return whether the C++ kernel draws tokens from logits of this type on this device."""
    return device == "cpu" and dtype in cpp.TYPES and os.environ.get(SWITCH, "") != "0" and cpp.LIBRARY.is_built()


def choose(
    dtype: torch.dtype,
    device: str,
    *,
    width: int,
    sizes: tuple[int, ...],
    backend: Literal["auto", "cpp", "torch"] = "auto",
) -> Kernel:
    """Return the operations for heads of `width` numbers and rows of `sizes` numbers (hidden, intermediate).

    A named backend that cannot run is a `ConfigError` or, when it was not built, a `MissingDependencyError`.
    """
    refusal = cpp.refusal(dtype, device, width, sizes)
    switch = os.environ.get(SWITCH, "")
    if backend == "cpp" and refusal:
        raise ConfigError(
            expected="a backend that can run here", found=f"cpp: {refusal}", where="decode:backend", action="use `auto`"
        )
    asked = backend == "cpp" or (backend == "auto" and switch == "1" and not refusal)
    if asked and not cpp.LIBRARY.is_built():
        cpp.LIBRARY.build()
    if not refusal and not cpp.LIBRARY.is_built():
        refusal = f"the C++ kernel is not built: `{cpp.LIBRARY.command}`"
    if backend == "torch" or (switch == "0" and backend == "auto"):
        refusal = "named by the caller" if backend == "torch" else f"{SWITCH}=0"
    if refusal:
        return Kernel(
            name="torch",
            reason=refusal,
            attend=reference.attend,
            add_norm=reference.add_norm,
            silu_mul=reference.silu_mul,
        )
    library = cpp.LIBRARY.found()
    reason = f"built for {library[1] if library else cpp.LIBRARY.path()}"
    return Kernel(name="cpp", reason=reason, attend=cpp.attend, add_norm=cpp.add_norm, silu_mul=cpp.silu_mul)
