"""Checks of the files of a policy folder. They run before a library reads the files, because a folder may come from anywhere.

- Files are regular files of bounded size, and JSON has the right shape.
- No number in them makes a library do more work than the size of the weights justifies.
- What a library raises in spite of that becomes an `ArtifactError` with file and field.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.errors import ArtifactError, InstarError

MIB = 1 << 20
LIMITS = {"tokenizer.json": 512 * MIB, "chat_template.jinja": MIB, "config.json": 4 * MIB}
"""Most bytes of a file. All other files may have 64 MiB."""
HEADER_BYTES = 100_000_000
"""Most bytes of the header of a safetensors file. This is the limit of the format itself."""
READ = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files that libraries read beside `config.json` and `tokenizer.json`. They may be absent; otherwise each is a JSON object."""
_LAYERS = re.compile(r"^(n|num|num_hidden)_layers?$")
_COUNTS = (
    (re.compile(r"(^|_)(layers?|blocks|depth|experts?|heads?|stages)$"), 1 << 10),
    (re.compile(r"(^|_)labels$"), 1 << 17),
    (re.compile(r"position|(^|_)(n_ctx|seq_len|seq_length|max_timestep|window)$"), 1 << 24),
    (re.compile(r""), 1 << 40),
)
"""Pattern of the names of numbers in `config.json` -> the largest value. The first pattern that fits counts.

The first one is for the number of parts of a model. It may be larger when the weight files have more tensors than that.
"""


def read_text(folder: Path, name: str) -> str | None:
    """Return the text of a file, or None without a file. Raises `ArtifactError` for a file that is too large or is not text."""
    file, most = folder / name, LIMITS.get(name, 64 * MIB)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise wrong("a regular file", "something else", str(file))
        if status.st_size > most:
            raise wrong(f"at most {most} bytes", f"{status.st_size}", str(file))
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if file.is_symlink():
            raise wrong("a file", "a link to nothing", str(file)) from error
        return None
    except (OSError, ValueError) as error:
        raise wrong("a readable text file", f"{type(error).__name__}: {error}", str(file)) from error


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one without a file. Raises `ArtifactError` for any other content."""
    text = read_text(folder, name)
    return {} if text is None else as_object(text, str(folder / name))


def as_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a text. Raises `ArtifactError` for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong("JSON", f"{type(error).__name__}: {error}", where) from error
    if not isinstance(value, dict):
        raise wrong("a JSON object", f"{type(value).__name__}", where)
    return value


@contextlib.contextmanager
def library(
    expected: str, where: str, action: str = "export the policy again", error_class: type[InstarError] = ArtifactError
) -> Iterator[None]:
    """Turn what transformers, tokenizers or safetensors raise into an `error_class`, also panics of their Rust code."""
    try:
        yield
    except BaseException as error:
        foreign = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if isinstance(error, InstarError) or not foreign:
            raise
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise error_class(expected=expected, found=cause, where=where, action=action) from error


def check_language_model(folder: Path, head: str = "AutoModelForCausalLM") -> None:
    """Raise `ArtifactError` unless the folder holds a whole model that transformers has code for. `head` is its class there."""
    record = config(folder)
    for name in READ:
        read_object(folder, name)
    if (folder / "adapter_config.json").exists():
        raise wrong(
            "a whole checkpoint",
            "the weights of an adapter",
            f"{folder}/adapter_config.json",
            "merge the adapter into its base model and save that",
        )
    for key, value in record.items():
        if key.lstrip("_") in ("attn_implementation", "experts_implementation") and "/" in str(value):
            raise wrong("an implementation that is part of transformers", f"{value!r}", f"{folder}/config.json:{key}")

    def build() -> Any:
        import transformers

        known = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return getattr(transformers, head).from_config(known, trust_remote_code=False)

    check_weights(folder, record, build)


def config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a policy folder. Raises `ArtifactError` for one without a `model_type`."""
    record, where = read_object(folder, "config.json"), f"{folder}/config.json"
    kind = record.get("model_type")
    if not record or not isinstance(kind, str):
        content = f"{kind!r}" if record else "no file, or an empty one"
        raise wrong("a policy's configuration with its model_type", content, f"{where}:model_type")
    return record


def check_weights(folder: Path, record: dict[str, Any], build: Callable[[], Any]) -> None:
    """Raise `ArtifactError` unless the weight files are whole and `build` makes a model of their size.

    The model is built without memory for its parameters. The weight files limit how many modules and parameters it may have.
    """
    import torch

    tensors, data_bytes = _headers(folder)
    where = f"{folder}/config.json"
    with library("a configuration that is not nested too deeply", where):
        _check_counts(record, tensors, where)
    known = library("the configuration of a model that transformers can build", where)
    with known, torch.device("meta"), _bounded_modules(32 * tensors + 10_000, where):
        implied = sum(parameter.numel() for parameter in build().parameters())
    packed = 16 if "quantization_config" in record else 1
    if implied > 2 * packed * data_bytes + MIB:
        raise wrong(
            f"a model that fits the {data_bytes} bytes of its weight files", f"a model of {implied} parameters", where
        )


def _headers(folder: Path) -> tuple[int, int]:
    """Return the number of tensors and of data bytes in the weight files. Every file is checked against its own header."""
    tensors = data_bytes = 0
    for file in sorted(folder.glob("*.safetensors")):
        where = str(file)
        with library("a safetensors file", where), file.open("rb") as opened:
            size = file.stat().st_size
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, HEADER_BYTES):
                raise wrong(f"a header within the file's {size} bytes", f"a header of {length}", f"{where}:header")
            header = as_object(opened.read(length), f"{where}:header")
        ends = [_end(entry, f"{where}:{name}") for name, entry in header.items() if name != "__metadata__"]
        if max(ends, default=0) != size - 8 - length:
            actual = f"{size - 8 - length}, because the file is cut short or has too many bytes"
            raise wrong(f"{max(ends, default=0)} bytes of data", actual, where)
        tensors, data_bytes = tensors + len(ends), data_bytes + size - 8 - length
    listed = read_object(folder, "model.safetensors.index.json").get("weight_map", {})
    names = (
        set(listed.values()) if isinstance(listed, dict) and all(isinstance(n, str) for n in listed.values()) else None
    )
    if names is None or any(Path(name).name != name or not (folder / name).is_file() for name in names):
        where = f"{folder}/model.safetensors.index.json:weight_map"
        raise wrong("names of files that lie beside the index", f"{str(listed)[:200]}", where)
    return tensors, data_bytes


def _end(entry: Any, where: str) -> int:
    """Return where the data of a tensor ends, as the header says."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)):
        raise wrong("data_offsets of two whole numbers", f"{entry!r}"[:200], f"{where}.data_offsets")
    return int(offsets[1])


def _check_counts(value: Any, tensors: int, where: str, key: str = "") -> None:
    """Raise `ArtifactError` for a number that would cause more work than the weights justify."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_counts(inner, tensors, f"{where}{'.' if key else ':'}{name}", str(name))
    elif isinstance(value, list):
        for inner in value:
            _check_counts(inner, tensors, where, key)
    elif type(value) is int:
        most = next(limit for pattern, limit in _COUNTS if pattern.search(key))
        most = max(most, tensors) if most == _COUNTS[0][1] else most
        if abs(value) > most:
            raise wrong(f"at most {most}, with {tensors} tensors in the weight files", f"{value}", where)
        if value < 1 and _LAYERS.search(key):
            raise wrong("at least one layer", f"{value}", where)


@contextlib.contextmanager
def _bounded_modules(most: int, where: str) -> Iterator[None]:
    """Stop the building of a model when it registers more than `most` modules."""
    from torch.nn.modules.module import register_module_module_registration_hook

    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise wrong(f"at most {most} modules for the tensors of the weight files", "more modules", where)

    handle = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def wrong(expected: str, found: str, where: str, action: str = "export the policy again") -> ArtifactError:
    """Return the error for a fault in a file of a policy folder."""
    return ArtifactError(expected=expected, found=found[:400], where=where, action=action)
