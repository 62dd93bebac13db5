"""Policies on disk and in memory: one function loads, one takes for training, one saves.

A policy folder is a complete transformers checkpoint. Weights are read from safetensors alone, from local files
alone, and no code of the folder runs. `ctx.resident` keeps three kinds of entries:

* `("model", digest)`: a loaded model, shared by every reader of that digest, in eval mode. Nobody may change it.
* `("pending-model", str(folder))`: the model an update has just saved into `folder`. Its digest is known only after
  the commit; the runner then moves it to `("model", digest)`, or drops it when the commit fails.
* anything else whose key, or whose value's leading key, names the digest: engines built on that model. `take_model`
  drops all of them, because they share its weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from instar.artifact import Policy
from instar.contract import Context
from instar.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTROL = "instar_"
"""How `model_type` begins in the `config.json` of a control policy; everything else is a causal language model."""


def load_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model in eval mode, in the checkpoint's own type, on the CPU.

    The same object is returned for the same digest while it is resident. Raises `ArtifactError` when the folder is
    incomplete.
    """
    key = ("model", policy.digest)
    if policy.digest and key in ctx.resident:
        resident: PreTrainedModel = ctx.resident[key]
        return resident
    model = _read(policy)
    if policy.digest:
        ctx.resident[key] = model
    return model


def take_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model for its caller to change, and drop everything resident that shares its weights."""
    model = load_model(policy, ctx)
    for key in [key for key, value in ctx.resident.items() if _names(key, value, policy.digest)]:
        del ctx.resident[key]
    return model


def _names(key: object, value: object, digest: str) -> bool:
    """An entry is `(..., digest, ...): value`, or `key: ((..., digest, ...), value)` as rollout engines are kept."""
    lead = value[0] if isinstance(value, tuple) and value else ()
    return bool(digest) and any(isinstance(part, tuple) and digest in part for part in (key, lead))


def _read(policy: Policy) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    policy.require()
    if policy.read_json("config.json").get("model_type", "").startswith(CONTROL):
        from instar.components.control_policy.build import load

        return load(policy.path)
    if not any(policy.path.glob("*.safetensors")):
        found = sorted(p.name for p in policy.path.iterdir()) if policy.path.is_dir() else "no folder"
        raise ArtifactError(
            expected="safetensors weights",
            found=str(found),
            where=f"policy {policy.digest or policy.path}",
            action="convert the checkpoint to safetensors",
        )
    logging.disable_progress_bar()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        policy.path, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype="auto"
    )
    # Memory-mapped tensors start at odd addresses, where some products round differently than in a model trained here.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    return model.eval()


def save_policy(model: PreTrainedModel, source: Policy, target: Policy, ctx: Context) -> None:
    """Write `model` as a complete checkpoint: weights and config from the model, every other file copied from `source`.

    The bytes depend on the weights and the source files alone. The model becomes resident as pending under `target`'s
    folder.
    """
    model.save_pretrained(target.path, safe_serialization=True)
    for file in sorted(source.path.iterdir()):
        if _is_carried(file):
            shutil.copyfile(file, target.path / file.name)
    ctx.resident[("pending-model", str(target.path))] = model


def copy_policy(source: Policy, target: Policy) -> None:
    """Copy a checkpoint byte for byte, so that a policy that was not stepped keeps its digest."""
    for file in sorted(source.path.iterdir()):
        if file.is_file():
            shutil.copyfile(file, target.path / file.name)


def _is_carried(file: Path) -> bool:
    """Tokenizer files, the chat template and the generation settings; not weights, not the model's own config."""
    weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
    return file.is_file() and not weights and file.name != "config.json"


def fingerprint(model: PreTrainedModel) -> str:
    """Return a short hash of all parameters, from sums of their bit patterns: cheap, and any lost update changes it."""
    import torch

    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {
        name: [list(p.shape), int(p.detach().view(widths[p.element_size()]).sum(dtype=torch.int64))]
        for name, p in model.named_parameters()
    }
    return hashlib.blake2b(json.dumps(sums, sort_keys=True).encode(), digest_size=16).hexdigest()
