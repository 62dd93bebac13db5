"""The operations as a C++ kernel for the CPU: `python -m instar.kernels.decode.cpp build`.

One source file, `decode.cpp`, a few seconds of compiling, no torch headers: the library is loaded by ctypes and works on
data pointers. Float32 or bfloat16, sums in float32. Results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instar.kernels.cpp_build import Library
from instar.kernels.decode.reference import Where

LIBRARY = Library(
    source=Path(__file__).with_name("decode.cpp"),
    command="python -m instar.kernels.decode.cpp build",
    instead="plain torch",
)
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
WIDTHS = (32, 64, 96, 128)
_WORK = 2**20  # products, or numbers touched, worth a thread of their own: about 0.1 ms


def attend(qkv: Tensor, keys: Tensor, values: Tensor, where: Where) -> Tensor:
    """Turn, store and attend; as `reference.attend`."""
    rows, wide, width = qkv.shape
    heads, columns = keys.shape[1], keys.shape[2]
    queries = wide - 2 * heads
    out = qkv.new_empty(rows, queries * width)
    work = rows * queries * width * where.columns
    _run(
        f"attend_{TYPES[qkv.dtype]}",
        qkv.data_ptr(),
        where.cos.data_ptr(),
        where.sin.data_ptr(),
        where.position.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        out.data_ptr(),
        rows,
        queries,
        heads,
        width,
        columns,
        _threads(work),
    )
    return out


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `delta` to x [R, E] in place and return the norm; as `reference.add_norm`."""
    out = torch.empty_like(x)
    rows, hidden = x.shape
    added = None if delta is None else delta.data_ptr()
    _run(
        f"add_norm_{TYPES[x.dtype]}",
        x.data_ptr(),
        added,
        weight.data_ptr(),
        eps,
        out.data_ptr(),
        rows,
        hidden,
        _threads(rows * hidden),
    )
    return out


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up from [R, 2 I]; as `reference.silu_mul`."""
    rows, wide = gate_up.shape
    out = gate_up.new_empty(rows, wide // 2)
    _run(
        f"silu_mul_{TYPES[gate_up.dtype]}",
        gate_up.data_ptr(),
        out.data_ptr(),
        rows,
        wide // 2,
        _threads(4 * rows * wide),
    )
    return out


def draw(logits: Tensor, uniform: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Return tokens int64 [R] and log-probabilities float32 [R] from logits [R, V], without a copy of them.

    `uniform` float64 [R] picks by inverse CDF of softmax(logits / temperature); None takes the likeliest token and
    scores it at temperature 1.
    """
    logits = logits.contiguous()
    rows, size = logits.shape
    token, logprob = logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)
    heat, given = (1.0, None) if uniform is None else (1.0 / temperature, uniform.data_ptr())
    _run(
        f"draw_{TYPES[logits.dtype]}",
        logits.data_ptr(),
        given,
        heat,
        token.data_ptr(),
        logprob.data_ptr(),
        rows,
        size,
        _threads(4 * rows * size),
    )
    return token, logprob


def refusal(dtype: torch.dtype, device: str, width: int, sizes: tuple[int, ...]) -> str:
    """Return why the kernel cannot run for heads of `width` numbers and rows of `sizes` numbers, or nothing."""
    if device != "cpu" or dtype not in TYPES:
        return f"{dtype} on {device}"
    if width not in WIDTHS:
        return f"heads of {width} numbers, not of {', '.join(map(str, WIDTHS))}"
    return next((f"{size} numbers are no multiple of 16" for size in sizes if size % 16), "")


def _threads(work: int) -> int:
    return min(torch.get_num_threads(), 1 + work // _WORK)


def _run(name: str, *arguments: Any) -> None:
    if _function(name)(*arguments):
        raise MemoryError(f"decode:{name}: no memory or no thread left for the C++ kernel")


@cache
def _function(name: str) -> Any:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kinds: dict[str, list[Any]] = {
        "attend": [pointer] * 7 + [number] * 6,
        "add_norm": [*[pointer] * 3, ctypes.c_float, pointer, *[number] * 3],
        "draw": [*[pointer] * 2, ctypes.c_float, *[pointer] * 2, *[number] * 3],
        "silu_mul": [*[pointer] * 2, *[number] * 3],
    }
    function = getattr(LIBRARY.load(), f"instar_{name}")
    function.argtypes, function.restype = kinds[name.rsplit("_", 1)[0]], ctypes.c_int
    return function


if __name__ == "__main__":
    LIBRARY.main()
