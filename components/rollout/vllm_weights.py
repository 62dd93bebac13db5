"""The weights that a vLLM engine is given, from a folder or from memory, and whether they are inside it.

Compared are sums of bit patterns, as a fingerprint is. vLLM stacks some matrices (query, key and value; gate and up) and pads
the vocabulary. A sum of integers does not care how matrices are stacked, so the stacked names are added up on both sides; a
matrix whose size differs is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instar.errors import EngineError

Sums = dict[str, tuple[int, int]]
"""Name of a parameter: number of entries, sum of their bit patterns."""
STACKED: dict[str, str] = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_WIDTHS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_engine(model: Any) -> Sums:
    """Return the sums of a model's parameters; runs inside the engine's worker. Layers made ready for adapters wrap theirs."""
    return {name.replace(".base_layer.", "."): _sum(p.detach()) for name, p in model.named_parameters()}


def of(source: Path | nn.Module, dtype: torch.dtype) -> Sums:
    """Return the sums of what a policy is: a folder with files, or a model in memory."""
    return of_folder(source, dtype) if isinstance(source, Path) else of_model(source, dtype)


def of_folder(folder: Path, dtype: torch.dtype) -> Sums:
    """Return the sums of the safetensors files of `folder`, each tensor rounded to `dtype` first."""
    return _stacked(_read(folder), dtype)


def of_model(model: Any, dtype: torch.dtype) -> Sums:
    """Return the sums of a model of transformers, each tensor rounded to `dtype` first, on the model's device."""
    return _stacked(checkpoint(model).items(), dtype)


def checkpoint(model: Any) -> dict[str, Tensor]:
    """Return the tensors of a model of transformers by the names that its files would have; no copy is made.

    What is tied is there once. Families whose files hold other matrices than their modules (experts in one tensor) are
    taken apart as saving does.
    """
    from transformers.core_model_loading import revert_weight_conversion

    kept = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - kept
    state = {name: value.detach() for name, value in model.state_dict().items() if name not in tied}
    named: dict[str, Tensor] = revert_weight_conversion(model, state)
    return named


def stream(model: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor as vLLM loads them, each in `dtype`; a copy lives no longer than its turn."""
    for name, value in checkpoint(model).items():
        yield name, value.to(dtype)


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in map(str, tensors.keys()):
                yield name, tensors.get_tensor(name)


def _stacked(named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Sums:
    found: Sums = {}
    for name, value in named:
        key = ".".join(STACKED.get(part, part) for part in name.split("."))
        size, total = _sum(value.to(dtype))
        before = found.get(key, (0, 0))
        found[key] = (before[0] + size, before[1] + total)
    return found


def compare(engine: Sums, policy: Sums, digest: str) -> None:
    """Raise `EngineError` unless every parameter that both sides hold in the same size is the same."""
    shared = sorted(name for name, (size, _) in engine.items() if policy.get(name, (-1, 0))[0] == size)
    differ = [name for name in shared if engine[name] != policy[name]]
    if differ or not any(".layers." in name or ".h." in name for name in shared):
        raise EngineError(
            expected=f"the weights of policy {digest} in the engine",
            found=f"{len(differ)} of {len(shared)} parameters are other ones, first {differ[:1]}"
            if differ
            else f"no layer that can be compared among {len(engine)} parameters",
            where="rollout engine vllm",
            action="the engine did not take the new weights: start it anew, and report the version of vLLM",
        )


def _sum(values: Tensor) -> tuple[int, int]:
    bits = values.contiguous().view(_WIDTHS[values.element_size()])
    return values.numel(), int(bits.sum(dtype=torch.int64))
