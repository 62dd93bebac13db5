"""What can change the last bits of a result besides code, inputs, configuration and seed: noted with every entry of a ledger.

Notes lie in the `time` of an entry, as text under `on/`. The digest of an entry leaves them out: it says what was done and what
came of it. So two machines that came to the same result have equal heads. Where they did not, `instar diff` reads here
what differs.
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
"""Environment variables that choose between kernels (`instar.kernels`)."""
_DECODE = Path(cpp_paths.__file__).parent / "decode" / "decode.cpp"


def notes(threads: int = 0) -> dict[str, str]:
    """Return what this process computes with: libraries, kernels, processor, threads, and GPUs where there are some.

    `threads` is the recipe's number; 0 takes what torch takes.
    """
    found = _installed() | {"kernels": _kernels(), "processor": _processor(), "threads": str(threads or _threads())}
    if gpus := _gpus():
        found["gpu"] = gpus
    return {f"{NOTE}{name}": value for name, value in found.items()}


def noted(entries: Iterable[Entry]) -> dict[str, str]:
    """Return the notes of the last entry that has some; none where an older instar wrote the ledger."""
    found: dict[str, str] = {}
    for entry in entries:
        found = {name: str(value) for name, value in entry.time.items() if name.startswith(NOTE)} or found
    return found


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return for example `torch 2.12.0 and 2.13.0`, one for each note that differs; nothing where one side has no notes."""
    if not before or not after:
        return []
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [f"{name.removeprefix(NOTE)} {before.get(name, 'none')} and {after.get(name, 'none')}" for name in names]


def sentence(who: str, found: list[str]) -> str:
    """Return what different notes mean, as a line; nothing where there are none."""
    return f"{who} with {'; '.join(found)}: equal work may differ there in its last bits\n" if found else ""


@cache
def _installed() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _kernels() -> str:
    """Return what the decoding kernel is built for, and the settings that choose another one."""
    built = next((target for path, target in cpp_paths.candidates(_DECODE) if cpp_paths.exists(path)), "not built")
    return " ".join([f"decode {built}", *(f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ)])


@cache
def _processor() -> str:
    """Return vendor and level: libraries choose their routines by both."""
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
    """Return the models that the driver lists; torch need not be loaded for that."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        found += [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("Model")]
    return ", ".join(found)
