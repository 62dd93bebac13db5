"""Cuts a learner into shards, one for each process (FSDP2), and puts it together again.

Parameters, gradients and moments are cut. Inside a pass the layers are gathered one at a time. Embeddings, final norm and head
are gathered together, for the whole pass. Shards and sums of gradients are float32, whatever the pass computes in. Buffers
keep their type.

A learner is built and saved in one piece on the CPU, by the same code as with one process. So its files are the same, and a
state that N processes wrote continues in any other number. Processes load one after the other, and only process 0 gathers, so
the machine never holds more than one whole model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from instar.artifact import Policy, TrainerState
from instar.components import policy_io
from instar.components.update import forward
from instar.components.update.batching import Micro
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.learner import Learner, keep_layers, recompute_layers
from instar.components.update.optimizer import Optimizer
from instar.components.update.parallel.ranks import Ranks
from instar.contract import Context
from instar.errors import ConfigError

Beat = Callable[[], None]


def whole(policy: Policy, saved: TrainerState | None, config: PolicyGradientConfig, ctx: Context) -> Learner:
    """Return the learner in one piece on the CPU, read from files. It has master weights only, and no bfloat16 copy."""
    plain = dataclasses.replace(config, device="cpu", gradient_checkpointing="off", processes=1)
    return Learner(policy_io.take_model(policy, ctx), plain, ctx, saved, policy, copies=False)


def shell(policy: Policy, config: PolicyGradientConfig, ctx: Context) -> Learner:
    """Return a learner of this policy's shape, without moments. `collect` fills it with another learner's weights."""
    plain = dataclasses.replace(config, device="cpu", gradient_checkpointing="off", processes=1)
    return Learner(policy_io.take_model(policy, ctx), plain, ctx, None, policy, copies=False, moments=False)


def resume(learner: Learner, config: PolicyGradientConfig, policy: Policy) -> None:
    """Continue with a learner in shards as this policy. Gradient checkpointing is switched to what `config` says."""
    before, learner.config, learner.row_name = learner.config.gradient_checkpointing, config, policy_io.row_name(policy)
    learner.begin()
    if config.gradient_checkpointing != before:
        (recompute_layers if before == "off" else keep_layers)(learner.compute)


def shard(learner: Learner, config: PolicyGradientConfig, ranks: Ranks, mesh: DeviceMesh, beat: Beat) -> None:
    """Cut a whole learner. Afterwards this process holds 1/N of it on the device of `mesh`, set up as `config` says."""
    old = learner.optimizer
    moments = old.tensors() if old.steps else {}
    learner.ranks, learner.config, learner.device = ranks, config, mesh.device_type
    cut(learner.model, config, mesh, beat)
    if learner.critic is not None:
        _fully_shard(learner.critic, mesh, MixedPrecisionPolicy())
    learner.optimizer = Optimizer(config, learner.trained(), fresh=not moments)
    if moments:
        placed = {key: _like(learner.optimizer.named[_name(key)], value) for key, value in moments.items()}
        learner.optimizer.load(old.steps, old.adam_steps(), placed, adopt=True)
    if config.gradient_checkpointing == "on":
        recompute_layers(learner.compute)


def cut(model: Any, config: PolicyGradientConfig, mesh: DeviceMesh, beat: Beat) -> Any:
    """Cut a model's parameters in place and return the model. `forward.score` gathers them, and so does calling the model.

    Every pass calls `beat`.
    """
    precision = MixedPrecisionPolicy(cast_forward_inputs=False)
    if config.dtype == "bfloat16":
        precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in layers(model):
        _fully_shard(layer, mesh, precision)
    _fully_shard(model, mesh, precision)

    def gathered(micro: Micro, settings: PolicyGradientConfig) -> tuple[Tensor, Tensor, Tensor]:
        beat()
        out = forward.compute(model, micro, settings)
        return out.logp, out.entropy, out.hidden

    setattr(model, forward.GATHERED, gathered)
    register_fsdp_forward_method(model, forward.GATHERED)
    return model


def layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers: the modules that the model itself says not to split (`_no_split_modules`)."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    whole_layers = [
        m for m in model.base_model.modules() if type(m).__name__ in names and not isinstance(m, FSDPModule)
    ]
    if not whole_layers:
        raise ConfigError(
            expected="a model that names its layers (_no_split_modules)",
            found=type(model).__name__,
            where="update.processes",
            action="set update.processes=1, or use another model",
        )
    return whole_layers


def _fully_shard(module: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy) -> None:
    sharded = fully_shard(module, mesh=mesh, mp_policy=precision)
    sharded.set_gradient_divide_factor(1.0)  # loss weights count all processes, so gradients are sums, not means
    sharded.set_force_sum_reduction_for_comms(True)  # gloo can only sum; the factor 1 costs nothing
    sharded.set_reduce_scatter_unused_params(True)  # processes may use different parts of a model


def _name(key: str) -> str:
    return key.partition("/")[2]


def _like(parameter: Any, value: Tensor) -> Tensor:
    """Return this process's shard of a whole tensor, cut in the same way as `parameter`."""
    mesh, placements = parameter.device_mesh, parameter.placements
    # src_data_rank=None: every process has the whole tensor and takes its own part, so nothing is sent.
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def collect(learner: Learner, into: Callable[[], Learner], whole: bool) -> Learner | None:
    """Return the learner in one piece on process 0, and None on the others. All processes must call this.

    `into` returns the learner to fill. With `whole` the optimiser's state is collected too. Otherwise it stays in shards, and
    the saved record says so.
    """
    for module in (learner.model, learner.critic):
        if module is not None:
            let_go(module)
    target = into() if learner.ranks.rank == 0 else None
    places = target.named() if target is not None else {}
    for name, p in learner.named().items():
        value = _gather(p, learner.ranks)
        if value is not None:
            with torch.no_grad():
                places[name].copy_(value)
    moments: dict[str, Tensor] = {}
    for key, part in learner.optimizer.tensors().items() if whole else ():
        value = _gather(part, learner.ranks)
        if value is not None:
            moments[key] = value
    if target is not None:
        target.follow(learner)
        if whole:
            target.optimizer.load(learner.optimizer.steps, learner.optimizer.adam_steps(), moments, adopt=True)
        else:
            target.optimizer, target.elsewhere = learner.optimizer, True
    return target


def let_go(module: nn.Module) -> None:
    """Drop gathered parameters. A pass without backward does not do that itself."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _gather(part: Any, ranks: Ranks) -> Tensor | None:
    """Return a whole tensor in the host memory of process 0, and None on the others.

    A shard is a run of rows. The shard of the highest rank may be shorter, so shards are padded to the same size.
    """
    assert isinstance(part, DTensor) and part.placements == (Shard(0),)
    own = part.to_local().detach()
    padded = own.new_zeros(-(-part.shape[0] // ranks.size), *part.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(ranks.size)] if ranks.rank == 0 else None
    torch.distributed.gather(padded, parts, dst=0)
    return None if parts is None else torch.cat(parts)[: part.shape[0]].cpu()
