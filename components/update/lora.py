"""Low-rank adapters through peft: only the adapters train, the saved policy has them merged in.

A merged weight is rounded, so training could not continue exactly from it. The trainer state therefore keeps the
adapter and the unmerged values of the adapted matrices; the latter never change, so a content-addressed store keeps
them once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from instar import seeds
from instar.components.update.config import LoraConfig
from instar.errors import ConfigError

_BASE = ".base_layer.weight"


def attach(model: Any, config: LoraConfig, seed: int) -> Any:
    """Return the peft model around `model`; A is drawn from `seed` (uniform, Kaiming bound), B is 0."""
    import peft

    try:
        wrapped = peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=config.r, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=list(config.targets), bias="none"
            ),
            autocast_adapter_dtype=False,
        )
    except ValueError as error:
        raise ConfigError(
            expected="layer names of this model",
            found=str(config.targets),
            where="update.lora.targets",
            action=str(error).splitlines()[0],
        ) from error
    for name, parameter in adapters(wrapped).items():
        with torch.no_grad():
            if ".lora_B." in name:
                parameter.zero_()
            else:
                bound = math.sqrt(1 / parameter.shape[1])
                draw = torch.rand(
                    parameter.shape, generator=seeds.torch_generator(_item(seed, name)), dtype=torch.float64
                )
                parameter.copy_((2 * draw - 1) * bound)
    return wrapped


def _item(seed: int, name: str) -> int:
    return seeds.seed(str(seed), 0, "lora", name)


def adapters(wrapped: Any) -> dict[str, Tensor]:
    """Return the trainable tensors by name."""
    return {name: p for name, p in wrapped.named_parameters() if p.requires_grad}


def base_weights(wrapped: Any) -> dict[str, Tensor]:
    """Return the adapted matrices without their adapters, by name."""
    return {name: p for name, p in wrapped.named_parameters() if name.endswith(_BASE)}


def restore(named: dict[str, Tensor], saved: dict[str, Tensor]) -> bool:
    """Copy `saved` into `named` in place; return False, changing nothing, when names or shapes differ."""
    if {k: v.shape for k, v in named.items()} != {k: v.shape for k, v in saved.items()}:
        return False
    with torch.no_grad():
        for name, value in saved.items():
            named[name].copy_(value)
    return True


def merge(wrapped: Any) -> Any:
    """Return the plain model with the adapters added into its weights, all parameters trainable again."""
    model = wrapped.merge_and_unload()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
