"""The continuous-control policy in training, its optimiser, and their state on disk.

    trainer.json             which policy the state belongs to, by a hash of its weights; the settings it was trained with
    optimizer.safetensors    Adam's moments

It is an error if the state is missing, or if it belongs to another policy or to other settings. Each of these would silently
change what is learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from instar.artifact import Policy, TrainerState
from instar.components.continuous.model import ContinuousPolicy
from instar.components.policy_io import fingerprint
from instar.components.update.optimizer import Optimizer
from instar.config import to_dict
from instar.contract import Context
from instar.errors import ConfigError, ContractError, LedgerError

if TYPE_CHECKING:
    from instar.components.update.sequence.config import SequenceConfig

FORMAT = "sequence-1"
FREE = ("device", "probe")
"""Settings that may change within an evolution, because they do not change what is learned."""


class Learner:
    """Trains `model` in place."""

    def __init__(self, model: Any, config: SequenceConfig, saved: TrainerState | None) -> None:
        if not isinstance(model, ContinuousPolicy):
            raise ContractError(
                expected="a continuous-control policy",
                found=type(model).__name__,
                where="update.policy",
                action="prepare data with dataset_prep.strategy=offline, or set update.strategy=policy_gradient",
            )
        self.config, self.updates, self.device = config, 0, device(config)
        record: dict[str, Any] | None = saved.read_json("trainer.json") if saved else None
        if record is not None:
            _check_record(record, model, config, saved)
        placed: Any = model
        self.model: ContinuousPolicy = placed.to(self.device).eval()
        self.optimizer = Optimizer(config, model.named_parameters(), decayed(model, config.decay_ssm_params))
        if record is not None and saved is not None:
            from safetensors.torch import load_file

            self.optimizer.load(
                record["optimizer_steps"], record["adam_steps"], load_file(saved.path / "optimizer.safetensors")
            )
            self.updates = record["updates"]

    def save(self, target: TrainerState) -> str:
        """Write the state that the next update continues from, and return the fingerprint of the trained weights."""
        from safetensors.torch import save_file

        self.optimizer.zero_grad()
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.optimizer.tensors().items()}
        save_file(tensors, target.path / "optimizer.safetensors")
        weights = fingerprint(self.model)
        record = {
            "format": FORMAT,
            "fingerprint": weights,
            "optimizer_steps": self.optimizer.steps,
            "adam_steps": self.optimizer.adam_steps(),
            "updates": self.updates,
            "config": settings(self.config),
        }
        target.write_json("trainer.json", record)
        return weights


def check_trainer(policy: Policy, trainer: TrainerState | None, reference: Policy | None, ctx: Context) -> None:
    """Raise `LedgerError` if the trainer state is missing.

    It is needed after step 0. There is one exception: after a rollback to the policy that the evolution began with, the optimiser
    starts afresh.
    """
    at_base = reference is not None and bool(policy.digest) and reference.digest == policy.digest
    if trainer is None and ctx.step > 0 and not at_base:
        raise LedgerError(
            expected=f"the trainer state of step {ctx.step - 1}",
            found="none",
            where="update.trainer",
            action="restore the trainer state: without it the optimiser would start afresh and silently change the run",
        )


def decayed(model: ContinuousPolicy, ssm: bool) -> frozenset[str]:
    """Return the names of the parameters with weight decay: all but biases, norms, A_log and D.

    `ssm` is the rule of the released code: all but biases and `nn.LayerNorm`, so A_log, D and RMSNorm have weight decay too.
    """
    names = {name for name, _ in model.named_parameters()}
    if not ssm:
        return frozenset(names - model.no_decay_names())
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    return frozenset(name for name in names - norms if not name.endswith("bias"))


def device(config: SequenceConfig) -> str:
    """Return `cpu` or `cuda`. A configuration that asks for CUDA where there is none is a `ConfigError`."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ConfigError(
            expected="a CUDA device", found="none", where="update.device", action="set update.device=auto or cpu"
        )
    return "cuda" if available and config.device != "cpu" else "cpu"


def settings(config: SequenceConfig) -> dict[str, Any]:
    """Return the settings that a trainer state must not change, ready for JSON."""
    return {key: value for key, value in to_dict(config).items() if key not in FREE}


def _check_record(record: dict[str, Any], model: Any, config: SequenceConfig, saved: TrainerState | None) -> None:
    where = f"trainer {saved.digest or saved.path}" if saved else "trainer"
    restore = "restore policy and trainer of the same step"
    if record.get("format") != FORMAT:
        raise LedgerError(expected=f"format {FORMAT}", found=str(record.get("format")), where=where, action=restore)
    if record["fingerprint"] != fingerprint(model):
        other = "the state of another policy"
        raise LedgerError(expected="the trainer state of this policy", found=other, where=where, action=restore)
    now, then = settings(config), record["config"]
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if changed:
        raise LedgerError(
            expected=", ".join(f"update.{key}={then.get(key)}" for key in changed),
            found=", ".join(f"{key}={now.get(key)}" for key in changed),
            where=where,
            action="use the settings with which the evolution began, or start another evolution",
        )
