"""Are the weights inside a vLLM engine those of a policy folder? Compared by sums of bit patterns, as a fingerprint is.

vLLM stacks some matrices (query, key and value; gate and up) and pads the vocabulary. A sum of integers does not care how
matrices are stacked, so the stacked names are added up on both sides; a matrix whose size differs is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def of_folder(folder: Path, dtype: torch.dtype) -> Sums:
    """Return the sums of the safetensors files of `folder`, each tensor rounded to `dtype` first."""
    from safetensors import safe_open

    found: Sums = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in map(str, tensors.keys()):
                key = ".".join(STACKED.get(part, part) for part in name.split("."))
                size, total = _sum(tensors.get_tensor(name).to(dtype))
                before = found.get(key, (0, 0))
                found[key] = (before[0] + size, before[1] + total)
    return found


def compare(engine: Sums, folder: Sums, digest: str) -> None:
    """Raise `EngineError` unless every parameter that both sides hold in the same size is the same."""
    shared = sorted(name for name, (size, _) in engine.items() if folder.get(name, (-1, 0))[0] == size)
    differ = [name for name in shared if engine[name] != folder[name]]
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
