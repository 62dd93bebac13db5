"""What the pods of a run need besides their own pipeline: Argo's log archive, values that are values, one token audience.

Read from Kubeflow Pipelines 2.17.0 and Argo 4.0.5: a pod of a run mounts the keys of the artifact repository that Argo resolves
for its namespace (`workflow/artifactrepositories`: the ConfigMap `artifact-repositories` there, else the controller's own)
when logs are archived (`workflow/controller/workflowpod.go:createSecretVolumesAndMounts`), and hangs while one is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from manifests.credentials import SECRETS
from manifests.network import Peer, reaches
from manifests.objects import Finding, Object, Pod, World, pods, strings, where

RUNS = "instar"
DEFAULT_AUDIENCE = "pipelines.kubeflow.org"
"""What the API server expects without TOKEN_REVIEW_AUDIENCE (`backend/src/apiserver/common/const.go`)."""
_DEFAULT_KEY = "workflows.argoproj.io/default-artifact-repository"
_VARIABLE = re.compile(r"(?<!\$)\$\(([A-Za-z_][\w.-]*)\)")


def archived(world: World) -> Iterator[Finding]:
    """Where logs of runs are archived, their pods find the keys in their own namespace and reach the store, ours."""
    import yaml

    item, text = _repository(world)
    repository: dict[str, Any] = yaml.safe_load(text) or {}
    if item is None or not repository.get("archiveLogs"):
        return
    place, s3 = where(item), repository.get("s3", {})
    for field in ("accessKeySecret", "secretKeySecret"):
        name, key = s3.get(field, {}).get("name"), s3.get(field, {}).get("key")
        if key not in SECRETS.get((RUNS, name), ()):
            found = f"{name} with key {key}, which nothing makes there"
            action = "name one that manifests.credentials makes, or archive no logs"
            yield _fault(f"a Secret in namespace {RUNS}", found, f"{place}.{field}", action)
    stores = [o for o in world.of("ConfigMap") if _named(o, "instar-store") and o["metadata"]["namespace"] == RUNS]
    ours = {str(o["data"]["endpoint"]) for o in stores}
    scheme = "http" if s3.get("insecure") else "https"
    if f"{scheme}://{s3.get('endpoint')}" not in ours or not _reached(world, s3["endpoint"]):
        found = f"{scheme}://{s3.get('endpoint')}"
        yield _fault(f"the store that pods of runs reach, {sorted(ours)}", found, place, "name that one")


def expanded(world: World) -> Iterator[Finding]:
    """`$(NAME)` stands only where Kubernetes expands it: in a container that has the variable."""
    inside = {id(box): pod for pod in pods(world.objects) for box in pod.containers}
    for pod in pods(world.objects):
        for box in pod.containers:
            known = {entry["name"] for entry in box.get("env", [])}
            for path, text in strings({k: box[k] for k in ("command", "args", "env", "volumeMounts") if k in box}):
                for name in _VARIABLE.findall(text):
                    if name not in known and not box.get("envFrom"):
                        place = where(pod.owner, f"containers.{box['name']}.{path}")
                        yield _fault(f"a variable {name} of the container", "none", place, "set it, or write the value")
    for item in world.objects:
        for path, text in strings(_without(item, inside)):
            if found := _VARIABLE.search(text):
                yield _fault("a value", found[0], where(item, path), "nothing expands it here: write the value")


def audiences(world: World) -> Iterator[Finding]:
    """Every token that is made for the pipelines API server has the one audience that the server accepts."""
    servers = [p for p in pods(world.of("Deployment")) if _named(p.owner, "ml-pipeline")]
    for expected in (_accepted(server) for server in servers):
        for pod in pods(world.objects):
            for volume in pod.spec.get("volumes", []):
                for source in volume.get("projected", {}).get("sources", []):
                    found = source.get("serviceAccountToken", {}).get("audience")
                    if found not in (None, expected):
                        place = where(pod.owner, f"volumes.{volume['name']}")
                        yield _fault(f"audience {expected}, as the server's", found, place, "ask for that one")


def _accepted(server: Pod) -> str:
    entries = [e for box in server.containers for e in box.get("env", []) if e["name"] == "TOKEN_REVIEW_AUDIENCE"]
    return str(entries[-1].get("value", "")) if entries else DEFAULT_AUDIENCE


def _repository(world: World) -> tuple[Object | None, str]:
    """Return the ConfigMap and the text of the artifact repository that Argo resolves for runs; none: no archive."""
    for item in world.of("ConfigMap"):
        if _named(item, "artifact-repositories") and item["metadata"].get("namespace") == RUNS:
            key = item["metadata"].get("annotations", {}).get(_DEFAULT_KEY)
            if key in item.get("data", {}):
                return item, item["data"][key]
    for item in world.of("ConfigMap"):
        if _named(item, "workflow-controller-configmap"):
            return item, item.get("data", {}).get("artifactRepository", "")
    return None, ""


def _reached(world: World, endpoint: str) -> bool:
    """Whether a pod of a run may connect; a host outside of the cluster is judged by its address range, in `test_network`."""
    url = urlsplit(f"//{endpoint}")
    name, _, rest = (url.hostname or "").partition(".")
    namespace = rest.partition(".")[0]
    service = [o for o in world.of("Service") if _named(o, name) and o["metadata"].get("namespace") == namespace]
    if not service:
        return not rest or namespace not in {o["metadata"]["name"] for o in world.of("Namespace")}
    target = Peer(namespace=namespace, labels=service[0]["spec"]["selector"])
    return reaches(world.of("NetworkPolicy"), Peer(namespace=RUNS), target, url.port or 80)


def _without(value: Any, boxes: Mapping[int, Any]) -> Any:
    """Return a nested value without the containers in it."""
    if isinstance(value, dict):
        return {k: _without(v, boxes) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v, boxes) for v in value if id(v) not in boxes]
    return value


def _named(item: Object, name: str) -> bool:
    return bool(item["metadata"]["name"] == name)


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
