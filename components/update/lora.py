"""Low-rank adapters through peft. Only the adapters are trained. The saved policy has them merged into its weights.

    policy folder    merged weights: transformers loads the policy itself, not its base
                     adapter/, in peft's format, a few megabytes: enough for an engine that already holds the base
                     adapter/base.json says which base that is
    trainer state    the adapter, and the adapted matrices without it

Merging rounds the weights, so training could not continue exactly from merged ones. That is why the trainer state has the
matrices without the adapter. They never change, so the store holds them once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from instar import seeds
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.update.config import LoraConfig

ADAPTER = "adapter"
"""Folder of a policy that holds its adapter."""
_BASE = ".base_layer.weight"


def attach(model: Any, config: LoraConfig, seed: int) -> Any:
    """Return the peft model around `model`. A is drawn from `seed` (uniform, Kaiming bound), and B is 0.

    A target that the model does not have, or that cannot have an adapter, is a `ConfigError` (`adapted`).
    """
    import peft

    targets = adapted(model, config.targets)
    try:
        wrapped = peft.get_peft_model(
            model,
            peft.LoraConfig(
                r=config.r,
                lora_alpha=config.alpha,
                lora_dropout=0.0,
                target_modules=targets,
                bias="none",
                fan_in_fan_out=_transposed(model, targets),
            ),
            autocast_adapter_dtype=False,
        )
    except ValueError as error:
        raise _refused(f"layers of {type(model).__name__} that peft adapts", targets, str(error)) from error
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


def adapted(model: Any, targets: Sequence[str]) -> list[str]:
    """Return the names of the layers to adapt: `targets`, or if there are none, all linear layers below the head.

    A name may be the end of a longer one: `q_proj` is that layer in every block. Raises `ConfigError` if a target matches no
    module, is not a linear layer, or is the head. It also does so for empty `targets` if the model has matrices that are not in
    linear layers, such as experts in one 3-d tensor, because they would be left out without a word.
    """
    head, kind = model.get_output_embeddings(), type(model).__name__
    modules = {name: module for name, module in model.named_modules() if name}
    linear = {name for name, module in modules.items() if isinstance(module, _linear()) and module is not head}
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        matches = [name for name in modules if f".{name}".endswith(f".{target}")]
        if not matches:
            missing = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in modules)]
            raise _refused(f"names of layers of {kind}", missing, f"choose among {', '.join(known)}")
        if not linear.issuperset(matches):
            raise _refused(f"linear layers of {kind} below its head", [target], f"choose among {', '.join(known)}")
    if targets:
        return list(targets)
    experts = [name for name, p in model.named_parameters() if p.ndim == 3 and not _convolves(model, name)]
    if experts:
        action = f"name the layers to adapt among {', '.join(known)}; the experts are not trained then"
        raise _refused(
            f"update.lora.targets for {kind}, because not all its matrices are linear layers", experts[:1], action
        )
    return known


def _refused(expected: str, found: Sequence[str], action: str) -> ConfigError:
    what = ", ".join(found)
    return ConfigError(expected=expected, found=what, where="update.lora.targets", action=action.splitlines()[0])


def _linear() -> tuple[type, ...]:
    from transformers.pytorch_utils import Conv1D

    return torch.nn.Linear, Conv1D


def _transposed(model: Any, targets: Sequence[str]) -> bool:
    """Whether the layers hold their matrices as [in, out], as GPT-2 does."""
    named = [module for name, module in model.named_modules() if f".{name}".endswith(tuple(f".{t}" for t in targets))]
    return bool(named) and not any(isinstance(module, torch.nn.Linear) for module in named)


def _convolves(model: Any, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Conv1d)


def _item(seed: int, name: str) -> int:
    return seeds.seed(str(seed), 0, "lora", name)


def adapters(wrapped: Any) -> dict[str, Tensor]:
    """Return the trainable tensors by name."""
    return {name: p for name, p in wrapped.named_parameters() if p.requires_grad}


def base_weights(wrapped: Any) -> dict[str, Tensor]:
    """Return the adapted matrices without their adapters, by name."""
    return {name: p for name, p in wrapped.named_parameters() if name.endswith(_BASE)}


def export(wrapped: Any, folder: Path, base: dict[str, str]) -> None:
    """Write the adapter as peft does, and `base.json`: digest and float32 fingerprint of the policy that it adds to.

    The bytes depend only on the adapter and on `base`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name.replace(".default.", "."): p.detach().cpu().contiguous() for name, p in adapters(wrapped).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base["digest"],
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "r": wrapped.peft_config["default"].r,
        "lora_alpha": wrapped.peft_config["default"].lora_alpha,
        "fan_in_fan_out": wrapped.peft_config["default"].fan_in_fan_out,
        "target_modules": sorted(wrapped.peft_config["default"].target_modules),
    }
    for name, value in (("adapter_config.json", settings), ("base.json", base)):
        (folder / name).write_text(json.dumps(value, sort_keys=True, indent=1) + "\n")


def restore(named: dict[str, Tensor], saved: dict[str, Tensor]) -> bool:
    """Copy `saved` into `named` in place and return True. If names or shapes differ, change nothing and return False."""
    if {k: v.shape for k, v in named.items()} != {k: v.shape for k, v in saved.items()}:
        return False
    with torch.no_grad():
        for name, value in saved.items():
            named[name].copy_(value)
    return True


def merge(wrapped: Any) -> Any:
    """Return the plain model with the adapters added to its weights. All its parameters are trainable again."""
    model = wrapped.merge_and_unload()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
