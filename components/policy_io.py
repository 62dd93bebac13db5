"""Policies on disk and in memory: `load_model` reads one, `take_model` gives one away for training, `save_policy` writes one.

On disk, a policy is a folder with a complete transformers checkpoint. Weights are read only from safetensors, and only from local
files. No code of the folder runs, and every fault of a folder is a named error (`policy_files`). The file `weights.json` holds the
fingerprint of the weights. Rows name the policy that acted by this fingerprint (`row_name`).

Some folders have no weights. An update whose outputs do not outlive the process (`ctx.durable` is false) leaves the model in
memory, and writes only its fingerprint, to `resident.json`.

In memory, `ctx.resident` holds the loaded model of a policy (`MODEL`). It also holds what is built on its weights, for example the
frozen model of a KL term, or the engine that samples. An update leaves the model that it saved there, for the policy that it wrote.
`take_model` drops everything that is held for a policy, because all of it shares the weights that the caller will change.
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
"""File in a policy folder without weights. It holds `fingerprint` and `num_parameters` of the model that stayed in memory."""
MODEL: Kind[PreTrainedModel] = Kind("model")
"""The loaded model of a policy, in eval mode. All readers of that policy share it, so nobody may change it."""
CANARY: Kind[tuple[str, float]] = Kind("rollout/canary")
"""Digest of the policy of the last rollout, and its canary log-probability. The next policy must give another number. An update
that changes no weight drops this entry."""
FINGERPRINT = "weights.json"
"""File in a policy folder with weights. It holds their `fingerprint`. Every stage that writes a policy writes it."""
LIBRARIES = ("diffusers", "gguf", "peft", "safetensors", "tokenizers", "torch", "transformers", "unsloth")
VERSIONS = frozenset(f"{library}_version" for library in LIBRARIES)
"""Keys under which libraries record their own version in a checkpoint."""
CONTINUOUS = "instar_"
"""How `model_type` begins in the `config.json` of a continuous-control policy. All other policies are causal language models."""


def load_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model in eval mode, in the number type of the checkpoint, on the CPU.

    While a model is resident, the same digest gives the same object. Raises `ArtifactError` when the folder is incomplete.
    """
    resident = ctx.resident.get(MODEL, policy.digest)
    if resident is not None:
        return resident
    model = _read(policy)
    if policy.digest:
        ctx.resident.put(MODEL, policy, model)
    return model


def row_name(policy: Policy) -> str:
    """Return the name of a policy in rows: the fingerprint of its weights, which every stage writes into the folder.

    A digest would not do. Between the steps of a fused segment, a policy has a digest that is never stored, and the same run in
    single stages would give it another one. A folder that no stage wrote has no fingerprint, for example a checkpoint that a
    user hands to a rollout. Such a policy is named by its digest.
    """
    for name in (RESIDENT, FINGERPRINT):
        if (policy.path / name).is_file():
            return str(policy_files.read_object(policy.path, name)["fingerprint"])
    return policy.digest


def name_weights(policy: Policy, ctx: Context) -> None:
    """Write the fingerprint into the folder of a policy that this stage made or fetched. Its model becomes resident."""
    model = _read(policy)
    policy.write_json(FINGERPRINT, {"fingerprint": fingerprint(model)})
    ctx.resident.put(MODEL, policy, model)


def logits_dtype(hidden: torch.dtype, device: str) -> torch.dtype:
    """Return the number type in which the output head multiplies. The weights are rounded to `hidden` before.

    The trainer and the samplers of this package must agree on this type. bfloat16 has 8 bits of precision, so it rounds a logit
    between 16 and 32 to .125. In a model of 135M parameters that was 40 % of the difference between sampler and trainer. So a CPU
    multiplies in float32. A GPU multiplies in `hidden`, because samplers outside this package round there, too.
    """
    import torch

    return torch.float32 if device == "cpu" and hidden == torch.bfloat16 else hidden


def cast_copy(model: Any, dtype: torch.dtype, device: str) -> Any:
    """Return a copy whose parameters have `dtype`. Buffers keep their type, because bfloat16 would spoil rotary frequencies.

    Tied parameters stay tied. No second copy in the source's type is made on the way.
    """
    import torch

    converted = {
        id(p): torch.nn.Parameter(p.detach().to(device, dtype, copy=True), p.requires_grad) for p in model.parameters()
    }
    return copy.deepcopy(model, memo=dict(converted)).to(device)


def take_model(policy: Policy, ctx: Context) -> PreTrainedModel:
    """Return the policy's model, which the caller may change. Everything resident that shares its weights is dropped."""
    model = load_model(policy, ctx)
    ctx.resident.drop(policy.digest)
    return model


def _read(policy: Policy) -> PreTrainedModel:
    policy.require()
    if (policy.path / RESIDENT).is_file():
        raise ArtifactError(
            expected="weights on disk",
            found="a policy whose weights were only in memory, with fingerprint "
            f"{policy_files.read_object(policy.path, RESIDENT).get('fingerprint')}",
            where=f"policy {policy.digest or policy.path}",
            action="run the segment again from its beginning, because only its last step writes weights",
        )
    if policy_files.config(policy.path)["model_type"].startswith(CONTINUOUS):
        from instar.components.continuous.build import load

        return load(policy.path)
    if not any(policy.path.glob("*.safetensors")):
        content = sorted(p.name for p in policy.path.iterdir()) if policy.path.is_dir() else "no folder"
        raise ArtifactError(
            expected="safetensors weights",
            found=str(content),
            where=f"policy {policy.digest or policy.path}",
            action="convert the checkpoint to safetensors",
        )
    return aligned(read_language_model(policy.path, f"policy {policy.digest or policy.path}", local_files_only=True))


def aligned(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that was read, in eval mode, with its parameters in memory of this process.

    Memory-mapped tensors start at unaligned addresses. There some products round differently than in a model trained here.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    return model.eval()


def read_language_model(
    path: Path | str,
    where: str,
    local_files_only: bool,
    library: contextlib.AbstractContextManager[None] | None = None,
    head: str = "AutoModelForCausalLM",
) -> PreTrainedModel:
    """Return the language model in a folder or of a hub id. `head` is its class in transformers. No code of the checkpoint runs.

    Raises `ArtifactError` for what `policy_files` refuses, and for weights that are missing, of another shape or left over. What
    transformers raises becomes the error that `library` makes.
    """
    import transformers
    from transformers.utils import logging

    if Path(path).is_dir():
        policy_files.check_language_model(Path(path), head)
    logging.disable_progress_bar()
    with library or policy_files.library("a checkpoint that transformers can load", where):
        loaded: Any = getattr(transformers, head).from_pretrained(
            path,
            local_files_only=local_files_only,
            use_safetensors=True,
            trust_remote_code=False,
            dtype="auto",
            ignore_mismatched_sizes=True,  # `_check_complete` refuses them with their names
            output_loading_info=True,
        )
    model: PreTrainedModel
    model, report = loaded
    _check_complete(model, report, where)
    return model


def _check_complete(model: PreTrainedModel, report: dict[str, Any], where: str) -> None:
    """Raise `ArtifactError` for parameters that are not in the files. transformers would draw them at random, anew at every load.

    Weights that are left over are refused when only a number distinguishes their name from that of a parameter. They belong to
    layers that the model would not run.
    """
    kinds = {_NUMBER.sub("#", name) for name in model.state_dict()}
    faults = {
        "none for": [str(name) for name in report["missing_keys"]],
        "another shape for": [str(entry) for entry in report["mismatched_keys"]],
        "no place for": [str(name) for name in report["unexpected_keys"] if _NUMBER.sub("#", str(name)) in kinds],
    }
    lines = [f"{words} {len(names)}, first {min(names)}" for words, names in faults.items() if names]
    if lines:
        raise ArtifactError(
            expected="weights for every parameter of the architecture that config.json names, and no others",
            found="; ".join(lines),
            where=where,
            action="use the whole checkpoint of the model, with its head",
        )


_NUMBER = re.compile(r"\d+")


def save_policy(model: PreTrainedModel, source: Policy, target: Policy, ctx: Context, name: str = "") -> None:
    """Write `model` as a complete checkpoint. Weights and config come from the model, and all other files from `source`.

    The bytes depend only on the weights and on the files of the source. `name` is the fingerprint of the weights, if the caller
    has it. When the outputs do not outlive the process, the fingerprint is written instead of the weights. The model becomes
    resident for `target`.
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
    """Remove the versions of libraries from the JSON files of a checkpoint. They would change its digest and nothing else.

    The ledger of an evolution says which versions it ran with (`instar.versions`).
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
    """Write the policy of an update that took no step. It equals the source byte for byte, so it has the same digest.

    The weights of the source may be only in memory. They are then saved if the target must outlive the process. Otherwise they stay
    in memory, for the target.
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
    """Return whether a file is copied to the next policy: tokenizer files, chat template and generation settings are.

    Weights, their fingerprint and the model's own config are not.
    """
    weights = file.suffix in (".safetensors", ".bin") or file.name.endswith(".index.json")
    return file.is_file() and not weights and file.name not in ("config.json", RESIDENT, FINGERPRINT)


def fingerprint(model: PreTrainedModel) -> str:
    """Return a short hash of all parameters. It is made from sums of their bit patterns, which is cheap and shows a lost update."""
    import torch

    widths = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = {
        name: [list(p.shape), int(p.detach().view(widths[p.element_size()]).sum(dtype=torch.int64))]
        for name, p in model.named_parameters()
    }
    return hashlib.blake2b(json.dumps(sums, sort_keys=True).encode(), digest_size=16).hexdigest()
