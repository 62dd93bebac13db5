"""What every pod must be: restricted, bounded and probed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from manifests.objects import Finding, Pod, World, pods, where

VOLUMES = {"configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim", "ephemeral", "downwardAPI"}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def restricted(world: World) -> Iterator[Finding]:
    """Every field that PodSecurity "restricted" asks for, and a read-only root file system."""
    for pod in pods(world.objects):
        yield from _pod_level(pod)
        for box in pod.containers:
            context = box.get("securityContext", {})
            needed = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for name, value in needed.items():
                if context.get(name) != value:
                    yield _fault(pod, box, f"securityContext.{name}", f"{value}", context.get(name))
            if context.get("privileged") or context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False:
                yield _fault(pod, box, "securityContext", "no privilege and no root", dict(context))
            for port in box.get("ports", []):
                if "hostPort" in port:
                    yield _fault(pod, box, "ports.hostPort", "none", port["hostPort"])


def bounded(world: World) -> Iterator[Finding]:
    """Requests and limits for CPU and memory on every container, a size limit on every emptyDir."""
    for pod in pods(world.objects):
        for box in pod.containers:
            for side in ("requests", "limits"):
                for resource in ("cpu", "memory"):
                    if resource not in box.get("resources", {}).get(side, {}):
                        yield _fault(pod, box, f"resources.{side}.{resource}", "a quantity", None)
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield _fault(pod, None, f"volumes.{volume['name']}.emptyDir.sizeLimit", "a quantity", None)


def probed(world: World) -> Iterator[Finding]:
    """What runs for ever has a startup, a readiness and a liveness probe."""
    for pod in pods(world.of("Deployment", "StatefulSet", "DaemonSet")):
        for box in pod.spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in box:
                    yield _fault(pod, box, probe, "a probe", None)


def quantity(text: str) -> float:
    """Return a Kubernetes quantity as a number: bytes for memory, cores for CPU."""
    match = re.fullmatch(r"([0-9.]+)(m|k|[KMGT]i|[MGT]|)", text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    number, unit = float(match[1]), match[2]
    return number / 1000 if unit == "m" else number * _UNITS[unit]


def _pod_level(pod: Pod) -> Iterator[Finding]:
    context = pod.spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        yield _fault(pod, None, "securityContext", "runAsNonRoot and a runAsUser that is not 0", dict(context))
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield _fault(pod, None, "securityContext.seccompProfile.type", "RuntimeDefault", context.get("seccompProfile"))
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(name):
            yield _fault(pod, None, name, "absent", True)
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield _fault(pod, None, "automountServiceAccountToken", "false", pod.spec.get("automountServiceAccountToken"))
    for volume in pod.spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield _fault(pod, None, f"volumes.{volume['name']}", f"one of {', '.join(sorted(VOLUMES))}", sorted(kinds))


def _fault(pod: Pod, box: Mapping[str, Any] | None, path: str, expected: str, found: object) -> Finding:
    full = f"containers.{box['name']}.{path}" if box else path
    said = "nothing" if found is None else str(found)
    return Finding(expected=expected, found=said, where=where(pod.owner, full), action="set it in the pod template")
