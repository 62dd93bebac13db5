"""A learner whose parameters, gradients and moments lie in shards, one per process (FSDP2), and back again.

Layers are gathered one at a time inside a pass; embeddings, last norm and head together, for the whole pass. Shards are
float32 and so are sums of gradients, whatever type the pass computes in. Buffers keep their type.
A learner is built and saved whole, on the CPU, by the code that one process uses: its files are the same, and a state
that N processes wrote continues on any other number. Processes load in turn, and process 0 alone gathers, so the machine
holds one whole model.
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
    """Return the learner in one piece on the CPU, in the type of the master weights alone, read from files."""
    plain = dataclasses.replace(config, device="cpu", gradient_checkpointing="off", processes=1)
    return Learner(policy_io.take_model(policy, ctx), plain, ctx, saved, policy, copies=False)


def shell(policy: Policy, config: PolicyGradientConfig, ctx: Context) -> Learner:
    """Return a learner to fill with another's weights and state: of this policy's shape, its moments left out."""
    plain = dataclasses.replace(config, device="cpu", gradient_checkpointing="off", processes=1)
    return Learner(policy_io.take_model(policy, ctx), plain, ctx, None, policy, copies=False, moments=False)


def resume(learner: Learner, config: PolicyGradientConfig, policy: Policy) -> None:
    """Go on with a learner in shards as this policy: count from here, compute layers again where `config` says so."""
    before, learner.config, learner.row_name = learner.config.gradient_checkpointing, config, policy_io.row_name(policy)
    learner.begin()
    if config.gradient_checkpointing != before:
        (recompute_layers if before == "off" else keep_layers)(learner.compute)


def shard(learner: Learner, config: PolicyGradientConfig, ranks: Ranks, mesh: DeviceMesh, beat: Beat) -> None:
    """Cut a whole learner: afterwards this process holds 1/N of it, on the device of `mesh`, set up as `config` says."""
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
    """Cut a model's parameters in place and return it; `forward.score` and calling it gather them.

    `beat` is called with every pass.
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
    """Return the decoder layers: the one module list of the trunk whose members the model says not to split."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [m for m in model.base_model.modules() if type(m).__name__ in names and not isinstance(m, FSDPModule)]
    if not found:
        raise ConfigError(
            expected="a model that names its layers (_no_split_modules)",
            found=type(model).__name__,
            where="update.processes",
            action="set update.processes=1, or use another model",
        )
    return found


def _fully_shard(module: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy) -> None:
    made = fully_shard(module, mesh=mesh, mp_policy=precision)
    made.set_gradient_divide_factor(1.0)  # losses are weighted by counts of all processes: sums, not means
    made.set_force_sum_reduction_for_comms(True)  # gloo has no other; the factor 1 costs nothing
    made.set_reduce_scatter_unused_params(True)  # processes may reach different parts of a model


def _name(key: str) -> str:
    return key.partition("/")[2]


def _like(parameter: Any, value: Tensor) -> Tensor:
    """Return this process's shard of a whole tensor, cut as `parameter` is."""
    mesh, placements = parameter.device_mesh, parameter.placements
    # None: every process has the whole and takes its part, nothing is sent.
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def collect(learner: Learner, into: Callable[[], Learner], whole: bool) -> Learner | None:
    """Return the learner in one piece on process 0, where `into` makes one to fill; None elsewhere. All take part.

    Only where `whole` the optimiser's state comes along. Else it stays in shards, and what is saved says so.
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
    """Drop the parameters that a pass without backward leaves gathered."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _gather(part: Any, ranks: Ranks) -> Tensor | None:
    """Return a whole tensor in the host memory of process 0, None elsewhere. Shards are runs of rows, the last may be short."""
    assert isinstance(part, DTensor) and part.placements == (Shard(0),)
    own = part.to_local().detach()
    padded = own.new_zeros(-(-part.shape[0] // ranks.size), *part.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(ranks.size)] if ranks.rank == 0 else None
    torch.distributed.gather(padded, parts, dst=0)
    return None if parts is None else torch.cat(parts)[: part.shape[0]].cpu()
