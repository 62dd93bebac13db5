"""Reads what a task of a compiled pipeline asks of its machine, from its resources and its Kubernetes settings.

Settings that only choose a node are ignored, because there is one machine. Any setting that is not listed here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from instar.errors import ConfigError
from instar.pipelines.containers.program import Machine

# The runner's own restrictions are stricter than any security context.
PLACEMENT = (
    *("nodeSelector", "nodeAffinity", "podAffinity", "tolerations", "podMetadata"),
    *("imagePullSecret", "imagePullPolicy", "securityContext"),
)
USED = (
    *("secretAsEnv", "configMapAsEnv", "fieldPathAsEnv", "activeDeadlineSeconds", "emptyDirMounts"),
    *("genericEphemeralVolume", "enabledSharedMemory"),
)
RESOURCES = (
    *("cpuLimit", "cpuRequest", "memoryLimit", "memoryRequest", "resourceCpuLimit", "resourceCpuRequest"),
    *("resourceMemoryLimit", "resourceMemoryRequest", "accelerator"),
)
UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def machine(resources: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> Machine:
    """Return what a task asks for. Raises `ConfigError` for a setting that a single machine cannot give."""
    only(resources, RESOURCES, f"{where}.resources")
    only(settings, PLACEMENT + USED, f"{where} (Kubernetes settings)")
    memory: dict[str, int] = {}
    disk = [volume["mountPath"] for volume in settings.get("genericEphemeralVolume", ())]
    for mount in settings.get("emptyDirMounts", ()):
        if mount.get("medium") == "Memory":
            memory[mount["mountPath"]] = int(quantity(mount.get("sizeLimit", "0"), where))
        else:
            disk.append(mount["mountPath"])
    if shared := settings.get("enabledSharedMemory"):
        memory["/dev/shm"] = int(quantity(shared.get("size") or "0", where))
    accelerator = resources.get("accelerator", {})
    count = accelerator.get("resourceCount", accelerator.get("count", "0"))
    return Machine(
        cpu=quantity(resources.get("resourceCpuLimit", resources.get("cpuLimit", 0)), where),
        memory=int(quantity(resources.get("resourceMemoryLimit", f"{resources.get('memoryLimit', 0)}G"), where)),
        accelerators=int(quantity(count, where)),
        timeout_s=float(settings.get("activeDeadlineSeconds", 0)),
        memory_mounts=memory,
        disk_mounts=tuple(disk),
        supplied=_supplied(settings),
    )


def quantity(text: Any, where: str) -> float:
    """Return a Kubernetes quantity, for example `500m` or `4Gi`, as a number."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([A-Za-z]*)", str(text))
    if match is None or match[2] not in UNITS:
        raise ConfigError(
            expected="a quantity such as 500m or 4Gi", found=f"{text!r}", where=where, action="write it as a constant"
        )
    return float(match[1]) * UNITS[match[2]]


def only(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise `ConfigError` for the first key that is not known."""
    for key in sorted(set(raw) - set(known)):
        raise refused(f"'{key}'", where)


def refused(found: str, where: str) -> ConfigError:
    """Return the error for a construct that this runner cannot run as a cluster does."""
    return ConfigError(
        expected="container tasks, and loops over them",
        found=found,
        where=where,
        action="run this pipeline on a cluster",
    )


def _supplied(settings: Mapping[str, Any]) -> dict[str, bool]:
    out = {entry["name"]: True for entry in settings.get("fieldPathAsEnv", ())}
    for source in (*settings.get("secretAsEnv", ()), *settings.get("configMapAsEnv", ())):
        out |= {pair["envVar"]: not source.get("optional", False) for pair in source["keyToEnv"]}
    return out
