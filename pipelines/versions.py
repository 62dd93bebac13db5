"""Notes, with every entry of a ledger, what else can change the last bits of a result: libraries, kernels, processor, threads,
GPUs.

Notes are text in the `time` of an entry, under `on/`. The digest of an entry does not cover them. It covers what was done and
what the result was. So two machines that have the same results have the same head of the ledger. If their results differ, `instar
diff` shows which notes differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from instar.contract import NOTE
from instar.kernels import cpp_paths
from instar.ledger import Entry

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "peft", "vllm", "gymnasium", "mujoco", "reasoning-gym")
SETTINGS = ("INSTAR_SCAN", "INSTAR_SCAN_CPP", "INSTAR_DECODE_CPP")
"""Environment variables that choose a kernel (`instar.kernels`)."""
_DECODE = Path(cpp_paths.__file__).parent / "decode" / "decode.cpp"


def notes(threads: int = 0) -> dict[str, str]:
    """Return what this process computes with: libraries, kernels, processor, threads, and GPUs if there are any.

    `threads` is the number in the recipe. If it is 0, the note has the number that torch uses by default.
    """
    values = _installed() | {"kernels": _kernels(), "processor": _processor(), "threads": str(threads or _threads())}
    if gpus := _gpus():
        values["gpu"] = gpus
    return {f"{NOTE}{name}": value for name, value in values.items()}


def noted(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the notes of the last entry that has any. A ledger of an older instar has none."""
    latest: dict[str, str] = {}
    for entry in entries:
        latest = {name: str(value) for name, value in entry.time.items() if name.startswith(NOTE)} or latest
    return latest


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return one text for each note that differs, for example `torch 2.12.0 and 2.13.0`. Return none if one side has no notes."""
    if not before or not after:
        return []
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [f"{name.removeprefix(NOTE)} {before.get(name, 'none')} and {after.get(name, 'none')}" for name in names]


def sentence(who: str, differences: list[str]) -> str:
    """Return a line that says what the differences mean, or an empty text if there are none."""
    return f"{who} with {'; '.join(differences)}: equal work may differ there in its last bits\n" if differences else ""


@cache
def _installed() -> dict[str, str]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _kernels() -> str:
    """Return what the decoding kernel is built for, and the settings that choose another kernel."""
    built = next((target for path, target in cpp_paths.candidates(_DECODE) if cpp_paths.exists(path)), "not built")
    return " ".join([f"decode {built}", *(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)])


@cache
def _processor() -> str:
    """Return vendor and instruction level of the processor, because libraries choose their routines by both."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    vendor = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), os.uname().machine
    )
    return f"{vendor} {cpp_paths.targets()[0]}"


def _threads() -> str:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return os.environ.get("OMP_NUM_THREADS") or str(available)


@cache
def _gpus() -> str:
    """Return the models of the GPUs that the driver lists. This does not load torch."""
    models = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        models += [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("Model")]
    return ", ".join(models)
