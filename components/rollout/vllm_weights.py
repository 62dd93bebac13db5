"""The weights for a vLLM engine, from a folder or from memory, and the check that they are inside the engine.

The check compares sums of bit patterns, as fingerprints do. vLLM stacks some matrices: query, key and value become one, and so
do gate and up. A sum of integers does not depend on the stacking, so the sums of stacked matrices are added up on both sides.
vLLM also pads the vocabulary. A matrix whose size differs for that reason is left out of the check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instar.errors import EngineError

Sums = dict[str, tuple[int, int]]
"""Name of a parameter -> number of its entries, and the sum of their bit patterns."""
STACKED: dict[str, str] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_WIDTHS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_engine(model: Any) -> Sums:
    """Return the sums of a model's parameters. This function runs inside the engine's worker.

    A layer that takes adapters wraps its parameters under `base_layer`. That part of the name is left out.
    """
    return {name.replace(".base_layer.", "."): _sum(p.detach()) for name, p in model.named_parameters()}


def of(source: Path | nn.Module, dtype: torch.dtype) -> Sums:
    """Return the sums of a policy, which is a folder with files or a model in memory."""
    return of_folder(source, dtype) if isinstance(source, Path) else of_model(source, dtype)


def of_folder(folder: Path, dtype: torch.dtype) -> Sums:
    """Return the sums of the safetensors files of `folder`. Each tensor is rounded to `dtype` first."""
    return _stacked(_read(folder), dtype)


def of_model(model: Any, dtype: torch.dtype) -> Sums:
    """Return the sums of a model of transformers, computed on its device. Each tensor is rounded to `dtype` first."""
    return _stacked(checkpoint(model).items(), dtype)


def checkpoint(model: Any) -> dict[str, Tensor]:
    """Return the tensors of a model of transformers, by the names that they would have in its files. Nothing is copied.

    Tied weights appear once. Some families hold other matrices in their modules than in their files, for example all experts in
    one tensor. Such tensors are split in the same way as saving does.
    """
    from transformers.core_model_loading import revert_weight_conversion

    distinct = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - distinct
    state = {name: value.detach() for name, value in model.state_dict().items() if name not in tied}
    named: dict[str, Tensor] = revert_weight_conversion(model, state)
    return named


def stream(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors as vLLM loads them, in `dtype`. At most one converted copy exists at a time."""
    for name, value in checkpoint(model).items():
        yield name, value.to(dtype)


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in map(str, tensors.keys()):
                yield name, tensors.get_tensor(name)


def _stacked(named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Sums:
    sums: Sums = {}
    for name, value in named:
        key = ".".join(STACKED.get(part, part) for part in name.split("."))
        size, total = _sum(value.to(dtype))
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + size, before[1] + total)
    return sums


def compare(engine: Sums, policy: Sums, digest: str) -> None:
    """Raise `EngineError` unless all parameters are equal that both sides hold in the same size."""
    shared = sorted(name for name, (size, _) in engine.items() if policy.get(name, (-1, 0))[0] == size)
    differ = [name for name in shared if engine[name] != policy[name]]
    if differ or not any(".layers." in name or ".h." in name for name in shared):
        raise EngineError(
            expected=f"the weights of policy {digest} in the engine",
            found=f"{len(differ)} of {len(shared)} parameters with other values; the first is {differ[0]}"
            if differ
            else f"{len(engine)} parameters, and no layer among them that can be compared",
            where="rollout engine vllm",
            action="start the engine again, because it did not take the new weights, and report the version of vLLM",
        )


def _sum(values: Tensor) -> tuple[int, int]:
    bits = values.contiguous().view(_WIDTHS[values.element_size()])
    return values.numel(), int(bits.sum(dtype=torch.int64))
