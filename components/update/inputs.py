"""What the update refuses before it loads a weight, the reference model, and the record of a batch that went wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import load_model
from instar.components.update.advantages import Ints
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.experience import Experience
from instar.components.update.learner import device, master_dtype
from instar.contract import Context
from instar.errors import ConfigError, ContractError, LedgerError

pc: Any = pyarrow.compute  # its functions are made at import, where a type checker cannot see them


def check(
    policy: Policy, trainer: TrainerState | None, reference: Policy | None, config: PolicyGradientConfig, ctx: Context
) -> None:
    """Raise unless the parts of the state are there.

    Trainer state: needed after step 0, unless the policy is the reference, the one the evolution started from (a
    rollback to the base starts the optimiser afresh). Reference: needed by a KL term.
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


def check_rollouts(data: Experience, policy: Policy, config: PolicyGradientConfig) -> None:
    """Raise for groups too small for the baseline, and for rollouts of another policy that nothing corrects."""
    if config.baseline in ("group", "loo") and (data.group_size < 2).any():
        raise ConfigError(
            expected="group_size >= 2",
            found=str(int(data.group_size.min())),
            where="curriculum.group_size",
            action="raise it, or use update.baseline none, batch or critic",
        )
    stale = sorted(set(data.policy) - {policy.digest})
    if stale and config.mismatch.kind == "off":
        raise ContractError(
            expected=f"rollouts of policy {policy.digest}",
            found=f"rollouts of {stale[:3]}",
            where="rollouts:policy",
            action="roll out again, or correct with update.mismatch.kind=token_trunc",
        )


def reference_model(reference: Policy | None, policy: Policy, config: PolicyGradientConfig, ctx: Context) -> Any:
    """Return the frozen model, or None when no KL term needs it or when it is the policy itself."""
    if config.kl.place == "none" or reference is None or (reference.digest and reference.digest == policy.digest):
        return None
    model: Any = load_model(reference, ctx)
    if model.dtype != master_dtype(config) or model.device.type != device(config):
        model = copy.deepcopy(model).to(device=device(config), dtype=master_dtype(config))
    return model


def dumper(data: Experience, rollouts: pa.Table, scores: pa.Table, folder: Path) -> Callable[[Ints], Path]:
    """Return a function that saves the rollouts numbered `rows` with their scores as Parquet and returns the folder."""

    def dump(rows: Ints) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        ids = data.rollout_id.take(pa.array(np.sort(rows)))
        for name, table in (("rollouts", rollouts), ("scores", scores)):
            chosen = pc.is_in(table.column("rollout_id"), value_set=ids)
            pq.write_table(table.filter(chosen), folder / f"{name}.parquet")
        return folder

    return dump
