"""What the update refuses before it loads a weight, the reference model, and the record of a batch that went wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import torch

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import MODEL, cast_copy, load_model, row_name
from instar.components.update import memory
from instar.components.update.advantages import Ints
from instar.components.update.learner import device
from instar.components.update.resident_state import REFERENCE
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context
from instar.errors import ConfigError, ContractError, LedgerError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig

pc: Any = pyarrow.compute  # its functions are made at import, where a type checker cannot see them


def check(
    policy: Policy, trainer: TrainerState | None, reference: Policy | None, config: PolicyGradientConfig, ctx: Context
) -> None:
    """Raise unless the parts of the state are there.

    Trainer state: needed after step 0, unless the policy is the reference. The policy that the evolution began with has none,
    and a rollback to it starts the optimiser afresh. Reference: needed by a KL term.
    """
    at_base = reference is not None and bool(policy.digest) and reference.digest == policy.digest
    if trainer is None and ctx.step > 0 and not at_base:
        raise LedgerError(
            expected=f"the trainer state of step {ctx.step - 1}",
            found="none",
            where="update.trainer",
            action="restore the trainer state; starting the optimiser afresh would silently change the run",
        )
    if config.kl.place != "none" and reference is None:
        raise ContractError(
            expected="a reference policy",
            found="none",
            where="update.reference",
            action="connect one, or set update.kl.place=none",
        )


def check_rollouts(data: UpdateBatch, policy: Policy, config: PolicyGradientConfig) -> None:
    """Raise for groups too small for the baseline, tokens that the model does not have, and rollouts of another policy
    that nothing corrects."""
    if config.baseline in ("group", "loo") and (data.group_size < 2).any():
        raise ConfigError(
            expected="group_size >= 2",
            found=str(int(data.group_size.min())),
            where="curriculum.group_size",
            action="raise it, or use update.baseline none, batch or critic",
        )
    size = int(memory.sizes(policy.read_json("config.json"))["vocab_size"])
    if len(data.tokens) and not 0 <= data.tokens.min() <= data.tokens.max() < size:
        raise ContractError(
            expected=f"token ids in 0..{size - 1}",
            found=f"{data.tokens.min()} to {data.tokens.max()}",
            where="rollouts:token_ids",
            action="roll out with this policy and its tokenizer",
        )
    acting = row_name(policy)
    stale = sorted(set(data.policy) - {acting})
    if stale and config.mismatch.kind == "off":
        raise ContractError(
            expected=f"rollouts of the weights {acting}, those of policy {policy.digest}",
            found=f"rollouts of {stale[:3]}",
            where="rollouts:policy",
            action="roll out again, or correct with update.mismatch.kind=token_trunc",
        )


def needs_reference(reference: Policy | None, policy: Policy, config: PolicyGradientConfig) -> bool:
    """Whether a KL term needs weights of its own: not where the reference is the policy itself."""
    same = reference is not None and bool(reference.digest) and reference.digest == policy.digest
    return config.kl.place != "none" and reference is not None and not same


def reference_model(reference: Policy | None, policy: Policy, config: PolicyGradientConfig, ctx: Context) -> Any:
    """Return the frozen model in the type of the forward pass, or None when no KL term needs it or it is the policy itself.

    It stays resident for the reference policy.
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
        if not shared:  # nobody else asked for it: do not keep it in two types
            ctx.resident.take(MODEL, reference.digest)
        model = cast_copy(model, dtype, place)
    if reference.digest:
        ctx.resident.put(REFERENCE, reference, model)
    return model


def dumper(data: UpdateBatch, rollouts: pa.Table, scores: pa.Table, folder: Path) -> Callable[[Ints], Path]:
    """Return a function that saves the rollouts numbered `rows` with their scores as Parquet and returns the folder."""

    def dump(rows: Ints) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        ids = data.rollout_id.take(pa.array(np.sort(rows)))
        for name, table in (("rollouts", rollouts), ("scores", scores)):
            chosen = pc.is_in(table.column("rollout_id"), value_set=ids)
            pq.write_table(table.filter(chosen), folder / f"{name}.parquet")
        return folder

    return dump
