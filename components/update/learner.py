"""The model in training, with all that trains it: adapters, value head, optimiser. And their state on disk.

    trainer.json             which policy the state belongs to, by a hash of its weights; counts of steps
    optimizer.safetensors    exp_avg/... and exp_avg_sq/... (Adam's moments), critic/..., adapter/...
    masters.safetensors      float32 weights, if the update computes in bfloat16
    base.safetensors         with adapters, in place of the masters: the matrices without their adapters

The hash keeps a state from continuing another policy.

A policy is published in the number type in which it was sampled and trained. With bfloat16, small steps add up in float32
weights, the masters. They are not the policy. Between two bfloat16 numbers they drift, and no forward pass sees it. Sampled
from directly they answer far worse than their rounded values do (docs/performance.md).

The state also stays in memory as `ResidentTrainerState`, so that the next update in the same process reads no file. If the
outputs need not outlive the process (`ctx.durable` is false), it is only there, and `optimizer.safetensors` is empty. It stays
on the device, unless `update.moments` is host.
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
    """`model` holds the weights that are trained, and the adapters inside it. `compute` runs the forward passes.

    In bfloat16 `compute` is a copy of `model`. Otherwise the two are the same.
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
        """`policy` is the one that `model` was loaded from, and `saved` the state to continue from.

        Without `copies` there is no bfloat16 copy. Without `moments` the optimiser has none until they are loaded.
        """
        self.config, self.updates, self.ranks = config, 0, Ranks()
        self.row_name = row_name(policy) if policy is not None else ""
        """The name that rollouts of this policy have in their column `policy`."""
        record: dict[str, Any] | None = saved.read_json("trainer.json") if saved else None
        self.device = device(config)
        resident = take_resident(saved, model, record, ctx)
        if record is not None:
            _check_record(record, model if resident is None else None, config, saved)
        self.source = record["fingerprint"] if record else fingerprint(model)
        masters = model
        if resident is not None and resident.masters is not None:
            masters = resident.masters
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
        """Whether the optimiser belongs to other processes. Then they keep its state, and `save` does not write it."""
        if record is not None and saved is not None:
            self._load(saved, record, resident)
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
        """Remember where this update starts, so that `save` knows whether it changed anything."""
        self._started = self.updates

    def follow(self, other: Learner) -> None:
        """Take over the counts of `other`. A learner of another policy is a `LedgerError`."""
        self.updates, self._started, self._base = other.updates, other._started, other._base
        if self.source != other.source:
            raise broken("weights of the policy that is trained", "another policy", None)

    def named(self) -> dict[str, nn.Parameter]:
        """Return every parameter by name, with frozen ones and those of the value head."""
        parameters = dict[str, nn.Parameter]((self._lora or self.model).named_parameters())
        if self.critic is not None:
            parameters |= {f"critic.{name}": p for name, p in self.critic.named_parameters()}
        return parameters

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Return name and value of each parameter that the optimiser changes."""
        return [(name, p) for name, p in self.named().items() if p.requires_grad]

    def export_adapter(self, policy: Policy) -> None:
        """Write the adapter, if there is one, into the policy's folder. Call it before `save`, which merges the adapter."""
        if self._lora is not None and self._base is not None:
            lora.export(self._lora, policy.path / lora.ADAPTER, self._base)

    def save(self, target: TrainerState, normalisers: list[float], ctx: Context) -> Any:
        """Write the state and return the model to publish, with adapters merged. Do not use the learner afterwards."""
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
        # A durable state on a device does not stay there: the sampler needs the memory. One with adapters is read again from
        # its files, which are small beside the base.
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
        """Undo what training set up, and return the model with its adapters merged."""
        self.optimizer.zero_grad()
        as_loaded(self.compute)
        if self.working is not None:
            self.working.release()
        if self.config.gradient_checkpointing == "on":
            keep_layers(self.compute)
        model = self.model if self._lora is None else lora.merge(self._lora)
        return model.eval()

    def _published(self, model: Any) -> Any:
        """Return the model in the number type of the forward pass."""
        if self.config.dtype != "bfloat16":
            return model
        if self.working is not None and self._lora is None:
            return self.working.model
        return cast_copy(model, torch.bfloat16, self.device)

    def _load(self, saved: TrainerState, record: dict[str, Any], resident: ResidentTrainerState | None) -> None:
        """Restore critic, adapters and optimiser, from memory where the state is resident and else from its files."""
        parts: dict[str, dict[str, Tensor]] = {"critic": {}, "adapter": {}, "moments": {}}
        for key, value in (_read(saved, "optimizer") if resident is None else resident.tensors).items():
            head, _, name = key.partition("/")
            parts.get(head, parts["moments"])[name if head in parts else key] = value
        complete = True
        if self.critic is not None:
            complete &= lora.restore(dict(self.critic.named_parameters()), parts["critic"])
        if self._lora is not None:
            base = _read(saved, "base") if resident is None else resident.base
            complete &= lora.restore(lora.base_weights(self._lora), base)
            complete &= lora.restore(lora.adapters(self._lora), parts["adapter"])
        if not complete:
            raise broken("critic and adapters of this model", "some are missing or have other shapes", saved)
        self.optimizer.load(
            record["optimizer_steps"], record["adam_steps"], parts["moments"], adopt=resident is not None
        )
        self.updates = record["updates"]


def device(config: PolicyGradientConfig) -> str:
    """Return `cpu` or `cuda`. A configuration that asks for CUDA where there is none is a `ConfigError`."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError(
            expected="a CUDA device", found="none", where="update.device", action="set update.device=auto or cpu"
        )
    return "cuda" if available and config.device != "cpu" else "cpu"


def master_dtype(config: PolicyGradientConfig) -> torch.dtype:
    """Return the number type of the weights and moments: float32, so that small steps are not rounded away.

    It is float64 if the forward pass computes in float64.
    """
    return torch.float64 if config.dtype == "float64" else torch.float32


def _check_record(record: dict[str, Any], model: Any, config: PolicyGradientConfig, saved: TrainerState | None) -> None:
    """Raise `LedgerError` if the state is not one of this model and configuration. `model` None skips the hash."""
    if record.get("format") != FORMAT:
        raise broken(f"format {FORMAT}", str(record.get("format")), saved)
    if model is not None and record["fingerprint"] != fingerprint(model):
        raise broken("the trainer state of this policy", "the state of another policy", saved)
    adapters = None if config.lora is None else {"r": config.lora.r, "alpha": config.lora.alpha}
    if record["lora"] != adapters or record["critic"] != (config.baseline == "critic"):
        raise broken(
            f"lora {record['lora']}, critic {record['critic']}, with which the state was written",
            f"lora {adapters}",
            saved,
        )


def _read(saved: TrainerState, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file = saved.path / f"{name}.safetensors"
    return load_file(file) if file.is_file() else {}


def recompute_layers(model: Any) -> None:
    """Switch gradient checkpointing on: forward keeps only the input of a layer, and backward computes the rest again.

    Every layer stays in evaluation mode. The switch of transformers works only in training mode, where some layers would use
    dropout. A model without any `GradientCheckpointingLayer` is a `ConfigError`.
    """
    layers = _layers(model)
    if not layers:
        raise ConfigError(
            expected="a model whose layers are transformers' GradientCheckpointingLayer",
            found=type(model).__name__,
            where="update.gradient_checkpointing",
            action="set update.gradient_checkpointing=off",
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def keep_layers(model: Any) -> None:
    """Switch gradient checkpointing off again."""
    for layer in _layers(model):
        del layer.forward


def _layers(model: Any) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a layer's `forward` under checkpointing. Without gradients there is no backward, so it is simply called."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def at_rest(tensors: dict[str, Tensor], where: Literal["device", "host"]) -> dict[str, Tensor]:
    """Return the tensors as they are, or copied to host memory, to wait there for the next step."""
    return tensors if where == "device" else {name: value.cpu() for name, value in tensors.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
