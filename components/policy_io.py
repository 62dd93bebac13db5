"""Policies on disk and in memory: one function loads, one takes for training, one saves.

A policy folder is a complete transformers checkpoint. Weights are read from safetensors alone, from local files
alone, and no code of the folder runs; what is wrong with a folder is a named error (`policy_files`). `weights.json` has the
fingerprint of the weights, by which rows name the policy that acted (`row_name`). One kind of folder
has no weights: an update whose outputs do not outlive the process (`ctx.durable` is false) writes `resident.json`, which
has their fingerprint, and leaves the model resident.

`ctx.resident` keeps the loaded model for a policy (`MODEL`), and whatever else is built on its weights: the frozen model of a KL
term, the engine that samples from it. An update leaves the model that it has just saved for the policy that it writes. `take_model`
drops all that is kept for a policy, because it shares the weights that the caller is about to change.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.artifact import Policy
from instar.components import policy_files
from instar.contract import Context
from instar.errors import ArtifactError
from instar.resident import Kind

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RESIDENT = "resident.json"
"""File of a policy folder without weights: `fingerprint` and `num_parameters` of the model that stayed in memory."""
MODEL: Kind[PreTrainedModel] = Kind("model")
"""The loaded model of a policy in eval mode, shared by everyone who reads that policy. Nobody may change it."""
CANARY: Kind[tuple[str, float]] = Kind("rollout/canary")
"""Digest of the policy of the last rollout and what it said, to be told from what the next one says. An update that leaves every
weight as it was drops it."""
FINGERPRINT = "weights.json"
"""File of a policy folder with weights: their `fingerprint`. Every stage that writes a policy writes it."""
LIBRARIES = ("diffusers", "gguf", "peft", "safetensors", "tokenizers", "torch", "transformers", "unsloth")
VERSIONS = frozenset(f"{library}_version" for library in LIBRARIES)
"""Keys under which libraries write down their own version in a checkpoint."""
CONTINUOUS = "instar_"
"""How `model_type` begins in the `config.json` of a continuous-control policy; everything else is a causal language model."""


def load_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model in eval mode, in the checkpoint's own type, on the CPU.

    The same object is returned for the same digest while it is resident. Raises `ArtifactError` when the folder is
    incomplete.
    """
    resident = ctx.resident.get(MODEL, policy.digest)
    if resident is not None:
        return resident
    model = _read(policy)
    if policy.digest:
        ctx.resident.put(MODEL, policy, model)
    return model


def row_name(policy: Policy) -> str:
    """Return what rows call the policy that acted: the fingerprint of its weights, which every stage writes into the folder.

    A digest would not do. Between the steps of a segment a policy has none that anybody stores, and the same run in single stages
    would name another one. A folder that no stage wrote, for example a checkpoint that somebody hands to a rollout, says no
    fingerprint and is called by its digest.
    """
    for name in (RESIDENT, FINGERPRINT):
        if (policy.path / name).is_file():
            return str(policy_files.read_object(policy.path, name)["fingerprint"])
    return policy.digest


def name_weights(policy: Policy, ctx: Context) -> None:
    """Write the fingerprint of a policy that this stage has made or fetched into its folder. Its model becomes resident."""
    model = _read(policy)
    policy.write_json(FINGERPRINT, {"fingerprint": fingerprint(model)})
    ctx.resident.put(MODEL, policy, model)


def logits_dtype(hidden: torch.dtype, device: str) -> torch.dtype:
    """Return the type in which the head multiplies, on the rounded weights: trainer and samplers of this package agree on it.

    bfloat16 has 8 bits, so it rounds a logit between 16 and 32 to .125: with 135M parameters that was 40 % of the difference
    between sampler and trainer. A CPU therefore multiplies in float32. Of a GPU, samplers outside of this package round.
    """
    import torch

    return torch.float32 if device == "cpu" and hidden == torch.bfloat16 else hidden


def cast_copy(model: Any, dtype: torch.dtype, device: str) -> Any:
    """Return a copy whose parameters have `dtype`. Buffers keep theirs: rotary frequencies in bfloat16 are wrong by degrees.

    Tied parameters stay tied, and the copy needs no memory of the source's type.
    """
    import torch

    made = {
        id(p): torch.nn.Parameter(p.detach().to(device, dtype, copy=True), p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, memo=dict(made)).to(device)


def take_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model for its caller to change, and drop everything resident that shares its weights."""
    model = load_model(policy, ctx)
    ctx.resident.drop(policy.digest)
    return model


def _read(policy: Policy) -> PreTrainedModel:
    policy.require()
    if (policy.path / RESIDENT).is_file():
        raise ArtifactError(
            expected="weights on disk",
            found="a policy whose weights were only ever in memory, fingerprint "
            f"{policy_files.read_object(policy.path, RESIDENT).get('fingerprint')}",
            where=f"policy {policy.digest or policy.path}",
            action="run the segment again from its beginning: only its last step writes weights",
        )
    if policy_files.config(policy.path)["model_type"].startswith(CONTINUOUS):
        from instar.components.continuous.build import load

        return load(policy.path)
    if not any(policy.path.glob("*.safetensors")):
        found = sorted(p.name for p in policy.path.iterdir()) if policy.path.is_dir() else "no folder"
        raise ArtifactError(
            expected="safetensors weights",
            found=str(found),
            where=f"policy {policy.digest or policy.path}",
            action="convert the checkpoint to safetensors",
        )
    model = read_language_model(policy.path, f"policy {policy.digest or policy.path}", local_files_only=True)
    # Memory-mapped tensors start at odd addresses, where some products round differently than in a model trained here.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    return model.eval()


def read_language_model(
    path: Path | str, where: str, local_files_only: bool, library: contextlib.AbstractContextManager[None] | None = None
) -> PreTrainedModel:
    """Return the causal language model in a folder or behind a hub id, of which no code runs.

    Raises `ArtifactError` for what `policy_files` refuses, and for weights that are missing, of another shape or left over;
    what transformers raises leaves as `library` says.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if Path(path).is_dir():
        policy_files.check_language_model(Path(path))
    logging.disable_progress_bar()
    with library or policy_files.library("a checkpoint that transformers can load", where):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=local_files_only,
            use_safetensors=True,
            trust_remote_code=False,
            dtype="auto",
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    model: PreTrainedModel
    model, report = loaded
    _check_complete(model, report, where)
    return model


def _check_complete(model: PreTrainedModel, report: dict[str, Any], where: str) -> None:
    """Raise `ArtifactError` for parameters that the files do not hold: transformers draws them at random, anew at every load.

    What is left over is refused where it looks like a parameter of the model but for its number: layers that nobody runs.
    """
    kinds = {_NUMBER.sub("#", name) for name in model.state_dict()}
    faults = {
        "none for": [str(name) for name in report["missing_keys"]],
        "another shape for": [str(entry) for entry in report["mismatched_keys"]],
        "no place for": [str(name) for name in report["unexpected_keys"] if _NUMBER.sub("#", str(name)) in kinds],
    }
    found = [f"{words} {len(names)}, first {min(names)}" for words, names in faults.items() if names]
    if found:
        raise ArtifactError(
            expected="weights for every parameter of the architecture that config.json names, and no others",
            found="; ".join(found),
            where=where,
            action="use the whole checkpoint of a causal language model, with its head",
        )


_NUMBER = re.compile(r"\d+")


def save_policy(model: PreTrainedModel, source: Policy, target: Policy, ctx: Context, name: str = "") -> None:
    """Write `model` as a complete checkpoint: weights and config from the model, every other file copied from `source`.

    The bytes depend on the weights and the source files alone. `name` is the fingerprint of the weights, where the caller has it.
    When the outputs do not outlive the process, it is written in place of the weights. The model becomes resident for `target`.
    """
    name = name or fingerprint(model)
    if ctx.durable:
        model.save_pretrained(target.path, safe_serialization=True)
        target.write_json(FINGERPRINT, {"fingerprint": name})
    else:
        shutil.copyfile(source.path / "config.json", target.path / "config.json")
        num = sum(p.numel() for p in model.parameters())
        target.write_json(RESIDENT, {"fingerprint": name, "num_parameters": num})
    for file in sorted(source.path.iterdir()):
        if _is_carried(file):
            shutil.copyfile(file, target.path / file.name)
    without_versions(target.path)
    ctx.resident.put(MODEL, target, model)


def without_versions(folder: Path) -> None:
    """Take out of a checkpoint's JSON files which versions of libraries wrote them: they change its digest and nothing else.

    Which versions an evolution ran with is in its ledger (`instar.versions`).
    """
    for file in sorted(folder.glob("*.json")):
        text = file.read_text()
        if any(f'"{key}"' in text for key in VERSIONS):
            plain = json.dumps(_unversioned(json.loads(text)), indent=2, sort_keys=True, ensure_ascii=False)
            file.write_text(plain + "\n")


def _unversioned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unversioned(part) for key, part in value.items() if key not in VERSIONS}
    return [_unversioned(part) for part in value] if isinstance(value, list) else value


def keep_policy(model: PreTrainedModel, source: Policy, target: Policy, ctx: Context) -> None:
    """Write the policy of an update that took no step: byte for byte the source, so that its digest stays.

    A source whose weights are only in memory stays resident; where the target must outlive the process it is saved.
    """
    if not (source.path / RESIDENT).is_file():
        copy_policy(source, target)
    elif ctx.durable:
        save_policy(model, source, target, ctx)
    else:
        copy_policy(source, target)
        ctx.resident.put(MODEL, target, model)


def copy_policy(source: Policy, target: Policy) -> None:
    """Copy every file of a checkpoint."""
    shutil.copytree(source.path, target.path, dirs_exist_ok=True)


def _is_carried(file: Path) -> bool:
    """Tokenizer files, the chat template and the generation settings; not weights, not the model's own config."""
    weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
    return file.is_file() and not weights and file.name not in ("config.json", RESIDENT, FINGERPRINT)


def fingerprint(model: PreTrainedModel) -> str:
    """Return a short hash of all parameters, from sums of their bit patterns: cheap, and any lost update changes it."""
    import torch

    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {
        name: [list(p.shape), int(p.detach().view(widths[p.element_size()]).sum(dtype=torch.int64))]
        for name, p in model.named_parameters()
    }
    return hashlib.blake2b(json.dumps(sums, sort_keys=True).encode(), digest_size=16).hexdigest()
