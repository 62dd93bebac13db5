"""`instar doctor`: prints this machine, the installed packages and what each scale needs, and checks a store.

The only heavy import is torch, if it is installed. It is needed to know the GPUs and the number formats of the CPU.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from instar.errors import MissingDependencyError

GIB = 2**30
TINY_EXTRAS = ("llm", "envs", "quality", "report")
"""The extras that a run at the tiny scale needs."""
TOOLS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "docker": ("docker", "podman"),
    "kubectl": ("kubectl",),
}
TOOL_USES = {"chromium": "tests that open the report", "docker": "building images", "kubectl": "running on a cluster"}


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a scale needs, in bytes: memory, free disk at the working folder, and memory of one GPU."""

    memory: int
    disk: int
    gpu: int
    extras: tuple[str, ...]
    what: str


# The update keeps weights, gradients and two Adam moments in float32. These are 16 bytes per parameter: 8 GB for 0.5e9
# parameters, 48 GB for 3e9. Activations and the cache of the sampler come on top.
SCALES: dict[str, Need] = {
    "tiny": Need(memory=2 * GIB, disk=2 * GIB, gpu=0, extras=TINY_EXTRAS, what="a character model made here"),
    "small": Need(memory=8 * GIB, disk=8 * GIB, gpu=0, extras=TINY_EXTRAS, what="SmolLM2-135M from a package"),
    "single": Need(memory=16 * GIB, disk=40 * GIB, gpu=20 * GIB, extras=TINY_EXTRAS, what="a 0.5B model"),
    "paper": Need(memory=64 * GIB, disk=200 * GIB, gpu=75 * GIB, extras=TINY_EXTRAS, what="a 3B model"),
}


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A CUDA device."""

    name: str
    memory: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine. `extras` maps an extra to its requirements that are not met. `torch` is empty if it is not installed."""

    python: str
    cores: int
    memory: int
    disk: int
    torch: str
    cpu: str
    gpus: tuple[Gpu, ...]
    extras: dict[str, tuple[str, ...]]


def probe() -> Machine:
    """Return the facts about this machine."""
    torch, cpu, gpus = _torch()
    return Machine(
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        disk=shutil.disk_usage(Path.cwd()).free,
        torch=torch,
        cpu=cpu,
        gpus=gpus,
        extras={
            extra: tuple(r for r, version in versions.items() if not version) for extra, versions in extras().items()
        },
    )


def extras() -> dict[str, dict[str, str]]:
    """Return extra -> requirement -> installed version, from the metadata of the package.

    A requirement is for example `kfp<3`. The version is "" if the package is not installed.
    """
    out: dict[str, dict[str, str]] = {}
    for line in metadata.requires("instar") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        if extra and not requirement.startswith("instar["):
            out.setdefault(extra[1], {})[requirement.strip()] = _version(requirement)
    return out


def _version(requirement: str) -> str:
    try:
        return metadata.version(_name(requirement))
    except metadata.PackageNotFoundError:
        return ""


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]


def missing(machine: Machine, need: Need) -> list[str]:
    """Return what this machine lacks for a scale. The list is empty if it can run the scale."""
    out = []
    if machine.memory < need.memory:
        out.append(f"{_gib(need.memory)} memory (has {_gib(machine.memory)})")
    if machine.disk < need.disk:
        out.append(f"{_gib(need.disk)} free disk (has {_gib(machine.disk)})")
    best = max((g.memory for g in machine.gpus), default=0)
    if best < need.gpu:
        out.append(f"one GPU with {_gib(need.gpu)} (has {_gib(best) if best else 'none'})")
    absent = [requirement for extra in need.extras for requirement in machine.extras[extra]]
    if absent:
        out.append(install(absent))
    return out


def install(requirements: Iterable[str]) -> str:
    """Return the command that installs requirements."""
    return shlex.join(["pip", "install", *requirements])


def main(store: str | None) -> int:
    """Print the tables and check `store` if given; return 0 when the tiny scale can run, otherwise 19."""
    console = Console(highlight=False, markup=False)
    machine = probe()
    console.print(_machine_table(machine))
    console.print(_extras_table(machine))
    console.print(_scales_table(machine))
    console.print(_protections_table())
    if store is not None:
        check_store(store, console)
    return MissingDependencyError.exit_code if missing(machine, SCALES["tiny"]) else 0


def check_store(uri: str, console: Console) -> None:
    """Run the twenty conformance checks and print them. Raise `StorageError` with the names of the checks that failed.

    The checks leave small objects below `instar-conformance/`.
    """
    from instar import conformance
    from instar.store import open_store

    opened, began, results = open_store(uri), time.perf_counter(), []
    table = _table("store check", "needed for", "result")
    with console.status(f"checking {opened.uri}"):
        for result in conformance.run(opened):
            verdict = result.detail if result.passed else f"FAILED: {result.detail}"
            table.add_row(result.name, result.needed_for, verdict, style="" if result.passed else "red")
            results.append(result)
    console.print(table)
    passed, took = sum(result.passed for result in results), time.perf_counter() - began
    console.print(f"store {opened.uri}: {passed} of {len(results)} checks passed in {took:.1f} s", soft_wrap=True)
    conformance.require(results, opened.uri)


def _torch() -> tuple[str, str, tuple[Gpu, ...]]:
    """Return the version of torch, the CPU features in words, and the CUDA devices."""
    try:
        import torch
    except ImportError:
        return "", "", ()
    features = [torch.backends.cpu.get_cpu_capability()]
    probes = {"AMX bf16": "_is_amx_tile_supported", "AVX512 bf16": "_is_avx512_bf16_supported"}
    features += [word for word, name in probes.items() if getattr(torch.cpu, name, bool)()]
    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(Gpu(name=properties.name, memory=properties.total_memory))
    return str(torch.__version__), ", ".join(features), tuple(gpus)


def _memory() -> int:
    """Return how many bytes of memory this process may use: those of the machine, or fewer if a control group limits it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if path.exists() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def _machine_table(machine: Machine) -> Table:
    table = _table("machine")
    table.add_row("Python", machine.python)
    table.add_row("cores", str(machine.cores))
    table.add_row("memory", _gib(machine.memory))
    table.add_row("free disk", f"{_gib(machine.disk)} at {Path.cwd()}")
    table.add_row("torch", machine.torch or "not installed")
    if machine.torch:
        table.add_row("CPU features", machine.cpu)
        table.add_row("CUDA", "\n".join(f"{g.name}, {_gib(g.memory)}" for g in machine.gpus) or "no device")
    for tool, names in TOOLS.items():
        path = next((p for n in names if (p := shutil.which(n))), None)
        table.add_row(tool, path or f"not found ({TOOL_USES[tool]})")
    return table


def _extras_table(machine: Machine) -> Table:
    table = _table("extra")
    for extra, versions in extras().items():
        absent = machine.extras[extra]
        present = [f"{_name(requirement)} {version}" for requirement, version in versions.items() if version]
        text = ", ".join([*present, *([f"get the rest: {install(absent)}"] if absent else [])])
        table.add_row(extra, text, style="yellow" if absent else "")
    return table


def _scales_table(machine: Machine) -> Table:
    table = _table("scale", "for", "needs", "here")
    for scale, need in SCALES.items():
        gpu = f", GPU {_gib(need.gpu)}" if need.gpu else ", no GPU"
        lack = missing(machine, need)
        answer = "missing: " + "; ".join(lack) if lack else "yes"
        needs = f"memory {_gib(need.memory)}, disk {_gib(need.disk)}{gpu}"
        table.add_row(scale, need.what, needs, answer, style="yellow" if lack else "")
    return table


def _protections_table() -> Table:
    """Return what keeps a user's code from the rest of this machine (docs/howto/reward.md)."""
    from instar.components.sandbox.confine import protections

    table = _table("a user's code", "here")
    for name, present in protections().items():
        table.add_row(name, "yes" if present else "no", style="" if present else "yellow")
    return table


def _table(*titles: str) -> Table:
    return Table(*(titles if len(titles) > 1 else (*titles, "")), header_style="bold")


def _gib(size: int) -> str:
    return f"{size / GIB:.3g} GiB"
