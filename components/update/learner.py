"""The model being trained with everything that trains it: adapters, value head, optimiser; and their state on disk.

`trainer.json` names the policy the state belongs to by a hash of its weights, so a state cannot continue another
policy. `optimizer.safetensors` holds `exp_avg/…`, `exp_avg_sq/…`, `critic/…` and `adapter/…`; with adapters,
`base.safetensors` holds the unmerged matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from instar.artifact import TrainerState
from instar.components.policy_io import fingerprint
from instar.components.update import lora
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.critic import value_head
from instar.components.update.optimizer import Optimizer
from instar.contract import Context
from instar.errors import ConfigError, LedgerError

FORMAT = 1


class Learner:
    """`model` is the transformers model whose forward pass runs; adapters, if any, are inside it."""

    def __init__(self, model: Any, config: PolicyGradientConfig, ctx: Context, saved: TrainerState | None) -> None:
        self.config, self.updates = config, 0
        record: dict[str, Any] | None = saved.read_json("trainer.json") if saved else None
        if record is not None:
            _check_record(record, model, config, saved)
        self.device = device(config)
        self.model: Any = model.to(device=self.device, dtype=master_dtype(config)).eval()
        self._lora: Any = lora.attach(self.model, config.lora, ctx.seed("lora")) if config.lora else None
        self.critic: nn.Linear | None = None
        if config.baseline == "critic":
            head = self.model.get_output_embeddings()
            self.critic = value_head(head.weight.shape[1]).to(device=self.device, dtype=head.weight.dtype)
        if config.gradient_checkpointing:
            _checkpoint(self.model)
        self.optimizer = Optimizer(config, self.trained())
        if record is not None and saved is not None:
            self._load(saved, record)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Return name and parameter of everything the optimiser changes."""
        named = [(name, p) for name, p in (self._lora or self.model).named_parameters() if p.requires_grad]
        if self.critic is not None:
            named += [(f"critic.{name}", p) for name, p in self.critic.named_parameters()]
        return named

    def save(self, target: TrainerState, normalisers: list[float]) -> Any:
        """Write the state, merge adapters and return the plain model. The learner must not be used afterwards."""
        from safetensors.torch import save_file

        tensors = self.optimizer.tensors()
        if self.critic is not None:
            tensors |= {f"critic/{name}": p for name, p in self.critic.named_parameters()}
        if self._lora is not None:
            tensors |= {f"adapter/{name}": p for name, p in lora.adapters(self._lora).items()}
            save_file(_contiguous(lora.base_weights(self._lora)), target.path / "base.safetensors")
        save_file(_contiguous(tensors), target.path / "optimizer.safetensors")
        model = self._finish()
        record = {
            "format": FORMAT,
            "fingerprint": fingerprint(model),
            "optimizer_steps": self.optimizer.steps,
            "adam_steps": self.optimizer.adam_steps(),
            "updates": self.updates,
            "critic": self.critic is not None,
            "lora": None if self.config.lora is None else {"r": self.config.lora.r, "alpha": self.config.lora.alpha},
            "normalisers": normalisers,
        }
        target.write_json("trainer.json", record)
        return model

    def _finish(self) -> Any:
        self.optimizer.zero_grad()
        if self.config.gradient_checkpointing:
            self.model.activation_checkpointing_disable()
        model = self.model if self._lora is None else lora.merge(self._lora)
        return model.eval()

    def _load(self, saved: TrainerState, record: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        tensors = load_file(saved.path / "optimizer.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"critic": {}, "adapter": {}, "moments": {}}
        for key, value in tensors.items():
            head, _, name = key.partition("/")
            parts.get(head, parts["moments"])[name if head in parts else key] = value
        complete = True
        if self.critic is not None:
            complete &= lora.restore(dict(self.critic.named_parameters()), parts["critic"])
        if self._lora is not None:
            base = saved.path / "base.safetensors"
            complete &= base.is_file() and lora.restore(lora.base_weights(self._lora), load_file(base))
            complete &= lora.restore(lora.adapters(self._lora), parts["adapter"])
        if not complete:
            raise _broken("critic and adapters of this model", "missing or other shapes", saved)
        self.optimizer.load(record["optimizer_steps"], record["adam_steps"], parts["moments"])
        self.updates = record["updates"]


def device(config: PolicyGradientConfig) -> str:
    """Return `cpu` or `cuda`; a device that is named and absent is a `ConfigError`."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError(expected="a CUDA device", found="none", where="update.device", action="write auto or cpu")
    return "cuda" if available and config.device != "cpu" else "cpu"


def master_dtype(config: PolicyGradientConfig) -> torch.dtype:
    """Weights are kept in float32, so that small updates survive; float64 only when all arithmetic is."""
    return torch.float64 if config.dtype == "float64" else torch.float32


def _check_record(record: dict[str, Any], model: Any, config: PolicyGradientConfig, saved: TrainerState | None) -> None:
    if record.get("format") != FORMAT:
        raise _broken(f"format {FORMAT}", str(record.get("format")), saved)
    if record["fingerprint"] != fingerprint(model):
        raise _broken("the trainer state of this policy", "the state of another policy", saved)
    adapters = None if config.lora is None else {"r": config.lora.r, "alpha": config.lora.alpha}
    if record["lora"] != adapters or record["critic"] != (config.baseline == "critic"):
        raise _broken(
            f"lora {record['lora']}, critic {record['critic']}, as when it was written", f"lora {adapters}", saved
        )


def _broken(expected: str, found: str, saved: TrainerState | None) -> LedgerError:
    where = f"trainer {saved.digest or saved.path}" if saved else "trainer"
    return LedgerError(
        expected=expected, found=found, where=where, action="restore policy and trainer of the same step"
    )


def _checkpoint(model: Any) -> None:
    """Recompute layers in backward. Only the layers are in training mode; their children stay without dropout."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
