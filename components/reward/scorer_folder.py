"""Reads the folder of a model that is to score answers: which kind it is, and whether it can be used at all.

A reward model is a classifier with one label, as TRL and OpenRLHF write it. A judge is a causal language model. No code of the
folder runs, and weights are read from safetensors only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from instar.artifact import Policy
from instar.components import policy_files
from instar.components.policy_io import CONTINUOUS, read_language_model, without_versions
from instar.components.reward.model_scorer import load_classifier
from instar.components.tokenizer import TextTokenizer
from instar.errors import ArtifactError, InstarError, NumericsError

FILES = ("config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json", *policy_files.READ)
"""Files that are copied beside the weights. Whatever else lies in a folder stays there."""
USE = "use the folder of a reward model with one label, or of a causal language model"
Kind = Literal["reward_model", "judge"]


def copy_scorer(source: Path, target: Path) -> None:
    """Copy the files that a scorer needs."""
    target.mkdir(parents=True)
    names = [name for name in FILES if (source / name).is_file()]
    for name in [*names, *(file.name for file in sorted(source.glob("*.safetensors")))]:
        shutil.copyfile(source / name, target / name)
    without_versions(target)


def read_scorer(folder: Path, where: str) -> tuple[Kind, Literal["text", "chat"]]:
    """Return the kind of the model in a folder, and how it is asked. The model is loaded once, so that a fault shows now.

    Raises `ArtifactError` for a folder that cannot be used, and `NumericsError` for weights that are not finite.
    """
    kind = _kind(folder, where)
    tokenizer = TextTokenizer(folder)
    if not any(folder.glob("*.safetensors")):
        raise policy_files.wrong("weights as safetensors", "none", where, "convert the checkpoint to safetensors")
    model: Any = load_classifier(Policy(folder)) if kind == "reward_model" else _judge(folder, where)
    broken = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        raise NumericsError(
            expected="finite weights",
            found=f"NaN or infinity in {len(broken)} tensors, first {broken[0]}",
            where=where,
            action="export the model again",
        )
    return kind, _form(tokenizer)


def _kind(folder: Path, where: str) -> Kind:
    record = policy_files.config(folder)
    names = record.get("architectures") or [""]
    architecture = str(names[0]) if isinstance(names, list) else str(names)
    if architecture.endswith("ForSequenceClassification"):
        labels = _labels(record)
        if labels != 1:
            raise _wrong(
                "a classifier with one label, whose logit is a reward", f"{labels} labels in {architecture}", where
            )
        return "reward_model"
    head = architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    if record["model_type"].startswith(CONTINUOUS) or not head:
        raise _wrong("a model that scores texts or answers questions", architecture or "no architecture", where)
    return "judge"


def _labels(record: dict[str, Any]) -> int:
    """Return the number of labels. transformers writes it as `id2label`, and leaves it out where it is 2."""
    named = record.get("id2label")
    return len(named) if isinstance(named, dict) else int(record.get("num_labels", 2))


def _judge(folder: Path, where: str) -> Any:
    return read_language_model(folder, where, local_files_only=True)


def _form(tokenizer: TextTokenizer) -> Literal["text", "chat"]:
    """Return `chat` if questions can be put into a chat template."""
    try:
        tokenizer.encode_prompt("0", "chat")
    except InstarError:
        return "text"
    return "chat"


def _wrong(expected: str, found: str, where: str) -> ArtifactError:
    return policy_files.wrong(expected, found, f"{where}/config.json", USE)
