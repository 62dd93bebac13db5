"""The model being trained with everything that trains it: adapters, value head, optimiser; and their state.

A policy is published in the type it was sampled and trained in. In bfloat16 the float32 weights that small steps add up in
(`masters.safetensors`) are no policy: between two bfloat16 numbers they drift unseen by any forward pass, and sampled from
themselves they answer far worse than their rounded values do (docs/performance.md).

`trainer.json` names the policy the state belongs to by a hash of its weights, so a state cannot continue another
policy. `optimizer.safetensors` holds `exp_avg/…`, `exp_avg_sq/…`, `critic/…` and `adapter/…`; with adapters,
`base.safetensors` holds the unmerged matrices in place of the masters. What the files hold also stays in memory as
`ResidentTrainerState`: the next update in the same process reads no file.
Outputs that do not outlive the process (`ctx.durable` is false) have it there alone, on the device unless `moments`
says otherwise; their `optimizer.safetensors` is empty.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import cast_copy, fingerprint, row_name
from instar.components.update import lora
from instar.components.update.bfloat16_copy import Bfloat16Copy
from instar.components.update.critic import value_head
from instar.components.update.forward import as_loaded
from instar.components.update.optimizer import Optimizer
from instar.components.update.parallel.ranks import Ranks
from instar.components.update.resident_state import (
    TRAINER,
    ResidentTrainerState,
    broken,
    take_masters,
    take_resident,
    versions,
)
from instar.contract import Context
from instar.errors import ConfigError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

FORMAT = 1


class Learner:
    """`model` holds the weights that are trained, adapters, if any, inside it; `compute` runs the forward passes.

    They are one, or `compute` is the bfloat16 copy of `model`.
    """

    def __init__(
        self,
        model: Any,
        config: PolicyGradientConfig,
        ctx: Context,
        saved: TrainerState | None,
        policy: Policy | None = None,
        copies: bool = True,
        moments: bool = True,
    ) -> None:
        """`policy` is the one that `model` came from. Without `copies` nothing is made that computes in bfloat16, without
        `moments` the optimiser has none until they are loaded."""
        self.config, self.updates, self.ranks = config, 0, Ranks()
        self.row_name = row_name(policy) if policy is not None else ""
        """What the rollouts of this policy call it."""
        record: dict[str, Any] | None = saved.read_json("trainer.json") if saved else None
        self.device = device(config)
        kept = take_resident(saved, model, record, ctx)
        if record is not None:
            _check_record(record, model if kept is None else None, config, saved)
        self.source = record["fingerprint"] if record else fingerprint(model)
        masters = model
        if kept is not None and kept.masters is not None:
            masters = kept.masters
        elif record is not None and saved is not None and record.get("masters"):
            take_masters(model, _read(saved, "masters"), saved)
        self.model: Any = masters.to(device=self.device, dtype=master_dtype(config)).eval()
        self._base: dict[str, str] | None = None
        if config.lora is not None:
            fresh = {"digest": policy.digest if policy is not None else "", "fingerprint": ""}
            self._base = record["base"] if record else fresh | {"fingerprint": fingerprint(self.model)}
        self._lora: Any = lora.attach(self.model, config.lora, ctx.seed("lora")) if config.lora else None
        self.critic: nn.Linear | None = None
        if config.baseline == "critic":
            head = self.model.get_output_embeddings()
            self.critic = value_head(head.weight.shape[1]).to(device=self.device, dtype=head.weight.dtype)
        self.optimizer = Optimizer(config, self.trained(), fresh=record is None and moments)
        self.elsewhere = False
        """Whether the optimiser is that of other processes, which keep its state when this is saved."""
        if record is not None and saved is not None:
            self._load(saved, record, kept)
        self.begin()
        self.working: Bfloat16Copy | None = None
        if copies and config.dtype == "bfloat16":
            self.working = Bfloat16Copy(
                self.model, model if masters is not model and model.dtype == torch.bfloat16 else None
            )
        self.compute: Any = self.model if self.working is None else self.working.model
        if config.gradient_checkpointing == "on":
            recompute_layers(self.compute)

    def step(self) -> float:
        """Take one optimiser step and return the norm of the gradient before clipping."""
        norm = self.optimizer.step()
        if self.working is not None:
            self.working.refresh()
        return norm

    def begin(self) -> None:
        """Count from here what this update changes."""
        self._started = self.updates

    def follow(self, other: Learner) -> None:
        """Count as `other` does, which has come from the same policy; another one is a `LedgerError`."""
        self.updates, self._started, self._base = other.updates, other._started, other._base
        if self.source != other.source:
            raise broken("weights of the policy that is trained", "another policy", None)

    def named(self) -> dict[str, nn.Parameter]:
        """Return every parameter by name, frozen ones and the value head's included."""
        found = dict[str, nn.Parameter]((self._lora or self.model).named_parameters())
        if self.critic is not None:
            found |= {f"critic.{name}": p for name, p in self.critic.named_parameters()}
        return found

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Return name and parameter of everything the optimiser changes."""
        return [(name, p) for name, p in self.named().items() if p.requires_grad]

    def export_adapter(self, policy: Policy) -> None:
        """Write the adapter, if there is one, into the policy's folder; before `save`, which merges it."""
        if self._lora is not None and self._base is not None:
            lora.export(self._lora, policy.path / lora.ADAPTER, self._base)

    def save(self, target: TrainerState, normalisers: list[float], ctx: Context) -> Any:
        """Write and keep the state, return the model to publish, adapters merged. The learner must not be used afterwards."""
        from safetensors.torch import save_file

        written = ctx.durable and not self.elsewhere
        tensors, base = ({}, {}) if self.elsewhere else self._state()
        save_file(_contiguous(tensors) if written else {}, target.path / "optimizer.safetensors")
        if base and written:
            save_file(_contiguous(base), target.path / "base.safetensors")
        plain = self._finish()
        model = self._published(plain)
        masters = plain if model is not plain and self._lora is None else None
        if masters is not None and written:
            save_file(_contiguous(dict(masters.named_parameters())), target.path / "masters.safetensors")
        self.fingerprint = fingerprint(model) if self.updates > self._started else self.source
        record = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "optimizer_steps": self.optimizer.steps,
            "adam_steps": self.optimizer.adam_steps(),
            "updates": self.updates,
            "critic": self.critic is not None,
            "lora": None if self.config.lora is None else {"r": self.config.lora.r, "alpha": self.config.lora.alpha},
            "base": self._base,
            "masters": masters is not None,
            "normalisers": normalisers,
        }
        target.write_json("trainer.json", record if written else record | {"resident": True})
        # A device's memory belongs to the sampler now; files of adapters are small next to the base they came from.
        if not self.elsewhere and (not ctx.durable or (self.device == "cpu" and self._lora is None)):
            resident = ResidentTrainerState(
                model=weakref.ref(model),
                versions=versions(model),
                tensors=at_rest(tensors, self.config.moments),
                base=at_rest(base, self.config.moments),
                masters=masters,
            )
            ctx.resident.put(TRAINER, target, resident)
        return model

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `optimizer.safetensors` and `base.safetensors` hold."""
        tensors, base = self.optimizer.tensors(), dict[str, Tensor]()
        if self.critic is not None:
            tensors |= {f"critic/{name}": p.detach() for name, p in self.critic.named_parameters()}
        if self._lora is not None:
            tensors |= {f"adapter/{name}": p.detach() for name, p in lora.adapters(self._lora).items()}
            base = {name: p.detach().clone() for name, p in lora.base_weights(self._lora).items()}
        return tensors, base

    def _finish(self) -> Any:
        self.optimizer.zero_grad()
        as_loaded(self.compute)
        if self.working is not None:
            self.working.release()
        if self.config.gradient_checkpointing == "on":
            keep_layers(self.compute)
        model = self.model if self._lora is None else lora.merge(self._lora)
        return model.eval()

    def _published(self, model: Any) -> Any:
        if self.config.dtype != "bfloat16":
            return model
        if self.working is not None and self._lora is None:
            return self.working.model
        return cast_copy(model, torch.bfloat16, self.device)

    def _load(self, saved: TrainerState, record: dict[str, Any], kept: ResidentTrainerState | None) -> None:
        parts: dict[str, dict[str, Tensor]] = {"critic": {}, "adapter": {}, "moments": {}}
        for key, value in (_read(saved, "optimizer") if kept is None else kept.tensors).items():
            head, _, name = key.partition("/")
            parts.get(head, parts["moments"])[name if head in parts else key] = value
        complete = True
        if self.critic is not None:
            complete &= lora.restore(dict(self.critic.named_parameters()), parts["critic"])
        if self._lora is not None:
            base = _read(saved, "base") if kept is None else kept.base
            complete &= lora.restore(lora.base_weights(self._lora), base)
            complete &= lora.restore(lora.adapters(self._lora), parts["adapter"])
        if not complete:
            raise broken("critic and adapters of this model", "missing or other shapes", saved)
        self.optimizer.load(record["optimizer_steps"], record["adam_steps"], parts["moments"], adopt=kept is not None)
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
    """`model` is None where the state is known to be its."""
    if record.get("format") != FORMAT:
        raise broken(f"format {FORMAT}", str(record.get("format")), saved)
    if model is not None and record["fingerprint"] != fingerprint(model):
        raise broken("the trainer state of this policy", "the state of another policy", saved)
    adapters = None if config.lora is None else {"r": config.lora.r, "alpha": config.lora.alpha}
    if record["lora"] != adapters or record["critic"] != (config.baseline == "critic"):
        raise broken(
            f"lora {record['lora']}, critic {record['critic']}, as when it was written", f"lora {adapters}", saved
        )


def _read(saved: TrainerState, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file = saved.path / f"{name}.safetensors"
    return load_file(file) if file.is_file() else {}


def recompute_layers(model: Any) -> None:
    """Keep a layer's input alone and compute what is inside again in backward. Every layer stays in evaluation mode.

    transformers' own switch asks for layers in training mode, and then some drop out by a function that asks for it too.
    Raises `ConfigError` for a model without layers that say that they can be computed again.
    """
    layers = _layers(model)
    if not layers:
        raise ConfigError(
            expected="a model of transformers' GradientCheckpointingLayers",
            found=type(model).__name__,
            where="update.gradient_checkpointing",
            action="set gradient_checkpointing=off",
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def keep_layers(model: Any) -> None:
    """Take `recompute_layers` back."""
    for layer in _layers(model):
        del layer.forward


def _layers(model: Any) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Without gradients there is no backward that could compute it again."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def at_rest(tensors: dict[str, Tensor], where: Literal["device", "host"]) -> dict[str, Tensor]:
    """Return the tensors where they wait for the next step: as they are, or copied to host memory."""
    return tensors if where == "device" else {name: value.cpu() for name, value in tensors.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
