"""Whatever an object refers to exists: configuration, secrets and their keys, accounts, services, pods, queues, nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from manifests.credentials import SECRETS
from manifests.objects import Finding, Pod, World, pods, selects, where

CLUSTER = {"Namespace", "ClusterQueue", "ResourceFlavor"}


def namespaces(world: World) -> Iterator[Finding]:
    """Every object is in a namespace of ours, and each of those enforces PodSecurity "restricted" of a fixed version."""
    ours = {o["metadata"]["name"] for o in world.of("Namespace")}
    for item in world.objects:
        found = item["metadata"].get("namespace")
        if (found not in ours) if item["kind"] not in CLUSTER else (found is not None):
            yield _fault(f"one of {sorted(ours)}, stated", str(found), where(item, "metadata.namespace"), "state it")
    for item in world.of("Namespace"):
        labels = item["metadata"].get("labels", {})
        for mode in ("enforce", "audit", "warn"):
            key = f"pod-security.kubernetes.io/{mode}"
            if labels.get(key) != "restricted" or not labels.get(f"{key}-version", "").startswith("v1."):
                yield _fault("restricted, of a version", str(labels.get(key)), where(item, key), "label the namespace")


def configuration(world: World) -> Iterator[Finding]:
    """ConfigMaps, Secrets (with the keys), ServiceAccounts and claims that pods use are there or made at install time."""
    maps = {_id(o): set(o.get("data", {})) for o in world.of("ConfigMap")}
    accounts = {_id(o) for o in world.of("ServiceAccount")}
    claims = {_id(o) for o in world.of("PersistentVolumeClaim")}
    known = {"ConfigMap": maps, "Secret": {k: set(v) for k, v in SECRETS.items()}}
    for pod in pods(world.objects):
        for kind, name, key, path in _uses(pod):
            keys = known[kind].get((pod.namespace, name))
            if keys is None or (key is not None and key not in keys):
                target = f"{kind} {name}" + (f" with key {key}" if key else "")
                yield _fault(
                    f"a {target}", "none", where(pod.owner, path), "add it, or list it in manifests.credentials"
                )
        account = pod.spec.get("serviceAccountName", "default")
        if (pod.namespace, account) not in accounts:
            yield _fault(f"a ServiceAccount {account}", "none", where(pod.owner, "serviceAccountName"), "add it")
        volumes = {v["name"] for v in pod.spec.get("volumes", [])} | _templates(pod)
        for volume in pod.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and (pod.namespace, claim) not in claims:
                yield _fault(f"a claim {claim}", "none", where(pod.owner, volume["name"]), "add it")
        for box in pod.containers:
            for mount in box.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield _fault(f"a volume {mount['name']}", "none", where(pod.owner, box["name"]), "add it")


def selectors(world: World) -> Iterator[Finding]:
    """Services, budgets and monitors select something: pods with that port, pods, a Service with that port."""
    running = list(pods(world.of("Deployment", "StatefulSet", "DaemonSet")))
    for item in world.of("Service"):
        chosen = [p for p in running if _same(item, p) and selects({"matchLabels": item["spec"]["selector"]}, p.labels)]
        ports = {q["name"] for p in chosen for box in p.containers for q in box.get("ports", [])}
        for port in item["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield _fault(
                    f"pods with port {port['targetPort']}", str(sorted(ports)), where(item), "mend the selector"
                )
    budgets = world.of("PodDisruptionBudget")
    for item in budgets:
        if not any(_same(item, p) and selects(item["spec"]["selector"], p.labels) for p in running):
            yield _fault("pods to protect", "none", where(item, "spec.selector"), "mend the selector")
    for pod in running:
        if not any(_same(b, pod) and selects(b["spec"]["selector"], pod.labels) for b in budgets):
            yield _fault("a PodDisruptionBudget", "none", where(pod.owner), "say what a drain may do to it")
    for item in world.of("ServiceMonitor"):
        spaces = item["spec"]["namespaceSelector"]["matchNames"]
        services = [s for s in world.of("Service") if s["metadata"]["namespace"] in spaces]
        chosen_ports = {
            p["name"]
            for s in services
            if selects(item["spec"]["selector"], s["metadata"].get("labels", {}))
            for p in s["spec"]["ports"]
        }
        for endpoint in item["spec"]["endpoints"]:
            if endpoint["port"] not in chosen_ports:
                yield _fault(
                    f"a Service with port {endpoint['port']}", str(sorted(chosen_ports)), where(item), "mend it"
                )


def queues(world: World) -> Iterator[Finding]:
    """Queues name queues and flavours that exist, and each flavour covers the resources its group names, in order."""
    flavors = {o["metadata"]["name"] for o in world.of("ResourceFlavor")}
    clusters = {o["metadata"]["name"] for o in world.of("ClusterQueue")}
    for item in world.of("LocalQueue"):
        if item["spec"]["clusterQueue"] not in clusters:
            yield _fault("a ClusterQueue that exists", item["spec"]["clusterQueue"], where(item), "mend the name")
    for item in world.of("ClusterQueue"):
        for group in item["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                if flavor["name"] not in flavors:
                    yield _fault("a ResourceFlavor that exists", flavor["name"], where(item), "mend the name")
                names = [r["name"] for r in flavor["resources"]]
                if names != group["coveredResources"]:
                    yield _fault(str(group["coveredResources"]), str(names), where(item, flavor["name"]), "same order")
                if any("borrowingLimit" in r for r in flavor["resources"]) and "cohortName" not in item["spec"]:
                    yield _fault("cohortName beside borrowingLimit", "none", where(item, flavor["name"]), "set one")


def _uses(pod: Pod) -> Iterator[tuple[str, str, str | None, str]]:
    for box in pod.containers:
        for entry in box.get("env", []):
            source: Mapping[str, Any] = entry.get("valueFrom", {})
            for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"], source[field]["key"], f"{box['name']}.env.{entry['name']}"
        for entry in box.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in entry:
                    yield kind, entry[field]["name"], None, f"{box['name']}.envFrom"
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None, f"volumes.{volume['name']}"
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], None, f"volumes.{volume['name']}"


def _templates(pod: Pod) -> set[str]:
    return {t["metadata"]["name"] for t in pod.owner["spec"].get("volumeClaimTemplates", [])}


def _same(item: Mapping[str, Any], pod: Pod) -> bool:
    return bool(item["metadata"]["namespace"] == pod.namespace)


def _id(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _fault(expected: str, found: str, place: str, action: str) -> Finding:
    return Finding(expected=expected, found=found, where=place, action=action)
