"""What the update reads, what it refuses before it loads a weight, and the models that it starts from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import MODEL, cast_copy, load_model, row_name
from instar.components.rollout.engines import ENGINE
from instar.components.update import memory, update_batch
from instar.components.update.bad_batch import Dump, dumper
from instar.components.update.batching import with_layout
from instar.components.update.learner import device
from instar.components.update.own import with_own
from instar.components.update.resident_state import REFERENCE
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context
from instar.errors import ConfigError, ContractError, LedgerError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import Ins


def read(ins: Ins, config: PolicyGradientConfig, ctx: Context) -> tuple[UpdateBatch, PolicyGradientConfig, Dump]:
    """Return the rollouts joined into groups, the configuration with a layout chosen for them, and what saves a bad batch.

    Raises an error where an input is missing or does not fit the others (`check`, `update_batch.join`, `check_rollouts`).
    """
    check(ins.policy, ins.trainer, ins.reference, config, ctx)
    rollouts, scores = ins.rollouts.table(), ins.scores.table()
    data = update_batch.join(ins.batch.table(), rollouts, scores, config.min_group)
    check_rollouts(data, ins.policy, config)
    data = with_own(data, ins, config, ctx)
    dump = dumper(data, rollouts, scores, ctx.scratch / "bad-batch")
    return data, with_layout(config, data, ins.policy), dump


def fit_memory(
    ins: Ins, config: PolicyGradientConfig, data: UpdateBatch, ctx: Context
) -> tuple[PolicyGradientConfig, memory.Plan]:
    """Return the configuration with gradient checkpointing decided, and the predicted memory; raise if it does not fit."""
    ctx.resident.drop_all(ENGINE)  # the sampler's weights leave before the plan asks how much memory is free
    reference = ins.reference if needs_reference(ins.reference, ins.policy, config) else None
    inputs = [artifact for artifact in (ins.policy, ins.trainer, reference) if artifact is not None]
    place = device(config)
    held = memory.held_bytes(ctx.resident, [artifact.digest for artifact in inputs], place)
    plan = memory.decide(ins.policy, config, data, reference is not None, place, held)
    ctx.heartbeat(memory.line(plan, config.packing), memory.metrics(plan))
    return dataclasses.replace(config, gradient_checkpointing="on" if plan.checkpointing else "off"), plan


def check(
    policy: Policy, trainer: TrainerState | None, reference: Policy | None, config: PolicyGradientConfig, ctx: Context
) -> None:
    """Raise an error if the trainer state or the reference policy is missing.

    The trainer state is needed after step 0, unless the policy is the reference. The policy that the evolution began with has
    no trainer state, and after a rollback to it the optimiser starts afresh. The reference is needed by a KL term.
    """
    at_base = reference is not None and bool(policy.digest) and reference.digest == policy.digest
    if trainer is None and ctx.step > 0 and not at_base:
        raise LedgerError(
            expected=f"the trainer state of step {ctx.step - 1}",
            found="none",
            where="update.trainer",
            action="restore the trainer state: without it the optimiser would start afresh and silently change the run",
        )
    if config.kl.place != "none" and reference is None:
        raise ContractError(
            expected="a reference policy, because update.kl needs one",
            found="none",
            where="update.reference",
            action="connect a policy to the input `reference`, or set update.kl.place=none",
        )


def check_rollouts(data: UpdateBatch, policy: Policy, config: PolicyGradientConfig) -> None:
    """Raise an error if a group is too small for the baseline, if the model does not have a token, or if a policy is wrong.

    Rollouts of another policy are allowed only if `update.mismatch` corrects for it.
    """
    if config.baseline in ("group", "loo") and (data.group_size < 2).any():
        raise ConfigError(
            expected=f"curriculum.group_size >= 2, because update.baseline={config.baseline} compares the rollouts of a group",
            found=str(int(data.group_size.min())),
            where="curriculum.group_size",
            action="raise it, or set update.baseline=none, batch or critic",
        )
    size = int(memory.sizes(policy.read_json("config.json"))["vocab_size"])
    if len(data.tokens) and not 0 <= data.tokens.min() <= data.tokens.max() < size:
        raise ContractError(
            expected=f"token ids in 0..{size - 1}",
            found=f"{data.tokens.min()} to {data.tokens.max()}",
            where="rollouts:token_ids",
            action="roll out again, with this policy and its tokenizer",
        )
    acting = row_name(policy)
    stale = sorted(set(data.policy) - {acting})
    if stale and config.mismatch.kind == "off":
        raise ContractError(
            expected=f"rollouts of the weights {acting}, which are those of policy {policy.digest}",
            found=f"rollouts of {stale[:3]}",
            where="rollouts:policy",
            action="roll out again, or set update.mismatch.kind=token_trunc, which corrects for an older policy",
        )


def needs_reference(reference: Policy | None, policy: Policy, config: PolicyGradientConfig) -> bool:
    """Whether a second model must be loaded: there is a KL term, and its reference is not the policy itself."""
    same = reference is not None and bool(reference.digest) and reference.digest == policy.digest
    return config.kl.place != "none" and reference is not None and not same


def reference_model(reference: Policy | None, policy: Policy, config: PolicyGradientConfig, ctx: Context) -> Any:
    """Return the frozen model in the number type of the forward pass. None means that no second model is needed.

    It stays in memory for later updates with the same reference policy.
    """
    if reference is None or not needs_reference(reference, policy, config):
        return None
    dtype, place = getattr(torch, config.dtype), device(config)
    resident = ctx.resident.get(REFERENCE, reference.digest)
    if resident is not None and resident.dtype == dtype:
        return resident
    shared = ctx.resident.get(MODEL, reference.digest) is not None
    model: Any = load_model(reference, ctx)
    if model.dtype != dtype or model.device.type != place:
        if not shared:  # no other stage uses this model, so it need not stay in two number types
            ctx.resident.take(MODEL, reference.digest)
        model = cast_copy(model, dtype, place)
    if reference.digest:
        ctx.resident.put(REFERENCE, reference, model)
    return model
