"""Converts a GGUF file to a complete checkpoint: bfloat16 safetensors, fast tokenizer, chat template. The bytes are
reproducible."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

from instar.errors import ArtifactError, MissingDependencyError

LIBRARIES = ("gguf", "safetensors", "tokenizers", "torch", "transformers")
"""Libraries whose versions are recorded. The converted bytes depend on the GGUF file and on these versions."""


def require() -> None:
    """Raise `MissingDependencyError` when a library for reading GGUF is missing."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            expected=f"the package {missing[0]}, to convert a packaged model once",
            found="it is not installed",
            where="dataset_prep.initial",
            action="install instar[llm], or give --model a folder with a Hugging Face model",
        )


def convert(file: Path, target: Path) -> dict[str, str]:
    """Write the model of a GGUF file into the empty folder `target`, and return the versions of the libraries.

    Quantised tensors are expanded in float32 and rounded once to bfloat16. Raises `ArtifactError` when a weight is not finite, and
    when the written weights read back differently.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    with contextlib.redirect_stderr(io.StringIO()):  # no setting switches this progress bar off
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    model.hf_quantizer = None  # the weights are no longer quantised; transformers refuses to save while this is set
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16)
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if broken:
        raise _wrong("finite weights", f"{len(broken)} tensors with NaN or infinity, first {broken[0]}", file)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _split_digits(file, target / "tokenizer.json")
    again = AutoModelForCausalLM.from_pretrained(target, local_files_only=True, use_safetensors=True, dtype="auto")
    written = again.state_dict()
    differ = [name for name, value in model.state_dict().items() if not torch.equal(value, written[name])]
    if differ:
        raise _wrong("weights that read back as written", f"{len(differ)} tensors differ, first {differ[0]}", file)
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _split_digits(file: Path, target: Path) -> None:
    """Add the step that splits digits to the tokenizer. The GGUF reader of transformers leaves it out.

    A GGUF file names its pre-tokenizer. The pre-tokenizer `smollm` splits numbers into digits before it splits the text into words.
    Without this step, a blank before a number becomes another token than the one that the model was trained on.
    """
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if field is None or field.contents() != "smollm":
        return
    spec = json.loads(target.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, spec["pre_tokenizer"]]}
    target.write_text(json.dumps(spec, ensure_ascii=False, indent=2))


def _wrong(expected: str, found: str, file: Path) -> ArtifactError:
    return ArtifactError(
        expected=expected, found=found, where=file.name, action="report this with the versions of `instar doctor`"
    )
