"""Each policy against the fault it is for: an overlay without findings, one thing spoiled, one policy that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from manifests import network, policy_access, policy_links, policy_pods, policy_pools, policy_runs, rights
from manifests.objects import Object, World
from manifests.policy import POLICIES, Policy, findings
from manifests.policy_access import ZERO
from manifests.policy_pods import quantity

Overlay = Callable[[str], World]
Fault = Callable[[World], None]


def one(world: World, kind: str, name: str) -> Object:
    return next(o for o in world.of(kind) if o["metadata"]["name"] == name)


def at(kind: str, name: str, path: str, value: Any) -> Fault:
    """Return a fault that sets `path` of an object; a value of None deletes it, a last step of `+` appends.

    Steps are divided by `/`; a `~` stands for a slash inside a key.
    """

    def spoil(world: World) -> None:
        *steps, last = [int(s) if s.isdigit() else s.replace("~", "/") for s in path.split("/")]
        place: Any = one(world, kind, name)
        for step in steps:
            place = place[step]
        if last == "+":
            place.append(value)
        elif value is None:
            del place[last]
        else:
            place[last] = value

    return spoil


def pod(path: str, value: Any) -> Fault:
    return at("Deployment", "mlflow", f"spec/template/spec/{path}", value)


def quota(resource: str, nominal: str, borrowed: str) -> dict[str, str]:
    return {"name": resource, "nominalQuota": nominal, "borrowingLimit": borrowed}


LAST = "flavors/0/resources/2/nominalQuota"
DISK = quota("ephemeral-storage", "3Ti", "1023Gi")
WIDE = "spec/resourceGroups/0/flavors/0/resources"
BOX, GROUP, NONE = "containers/0/securityContext", "spec/resourceGroups/0", {"selects": "nothing"}
FAULTS: list[tuple[str, Policy, Fault]] = [
    ("runAsNonRoot", policy_pods.restricted, pod("securityContext/runAsNonRoot", False)),
    ("runAsUser", policy_pods.restricted, pod("securityContext/runAsUser", 0)),
    ("seccomp", policy_pods.restricted, pod("securityContext/seccompProfile", {"type": "Unconfined"})),
    ("capabilities", policy_pods.restricted, pod(f"{BOX}/capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]})),
    ("escalation", policy_pods.restricted, pod(f"{BOX}/allowPrivilegeEscalation", None)),
    ("read-only root", policy_pods.restricted, pod(f"{BOX}/readOnlyRootFilesystem", False)),
    ("privileged", policy_pods.restricted, pod(f"{BOX}/privileged", True)),
    ("host network", policy_pods.restricted, pod("hostNetwork", True)),
    ("host port", policy_pods.restricted, pod("containers/0/ports/0/hostPort", 80)),
    ("host path", policy_pods.restricted, pod("volumes/+", {"name": "x", "hostPath": {"path": "/"}})),
    ("token", policy_pods.restricted, pod("automountServiceAccountToken", None)),
    ("init container", policy_pods.restricted, pod("initContainers", [{"name": "i", "image": "mlflow"}])),
    ("no memory limit", policy_pods.bounded, pod("containers/0/resources/limits/memory", None)),
    ("no cpu request", policy_pods.bounded, pod("containers/0/resources/requests/cpu", None)),
    ("emptyDir without size", policy_pods.bounded, pod("volumes/0/emptyDir", {})),
    ("no liveness probe", policy_pods.probed, pod("containers/0/livenessProbe", None)),
    ("tag", policy_access.images, pod("containers/0/image", "mlflow:3.17.2")),
    ("latest", policy_access.images, pod("containers/0/image", "mlflow:latest")),
    ("no tag", policy_access.images, pod("containers/0/image", "mlflow")),
    ("half a digest", policy_access.images, pod("containers/0/image", "mlflow@sha256:abc")),
    ("unknown image", policy_access.images, pod("containers/0/image", "busybox@" + ZERO)),
    ("Secret", policy_access.no_credential, lambda w: w.objects.append(secret())),
    ("literal password", policy_access.no_credential, pod("containers/0/env/+", {"name": "DB_PASSWORD", "value": "x"})),
    ("password in a URL", policy_access.no_credential, pod("containers/0/args/+", "postgresql://u:pw@h/db")),
    ("known default", policy_access.no_credential, at("ConfigMap", "instar-store", "data/k", "minio123")),
    ("wildcard verb", policy_access.least_rights, at("Role", "instar-stage", "rules/0/verbs", ["*"])),
    ("wildcard resource", policy_access.least_rights, at("Role", "instar-stage", "rules/0/resources", ["*"])),
    ("secrets list", policy_access.least_rights, at("Role", "instar-stage", "rules/1/verbs", ["get", "list"])),
    ("any secret", policy_access.least_rights, at("Role", "instar-stage", "rules/1/resourceNames", None)),
    ("exec", policy_access.least_rights, at("Role", "instar-stage", "rules/2/resources", ["pods", "pods/exec"])),
    ("cluster role", policy_access.least_rights, lambda w: w.objects.append(cluster_binding())),
    ("a right nobody uses", rights.granted, at("Role", "instar-chain", "rules/0/resources/+", "experiments")),
    ("a right too few", rights.granted, at("Role", "instar-launch", "rules/0/verbs", ["create"])),
    ("an unknown role", rights.granted, at("Role", "instar-chain", "metadata/name", "other")),
    ("no such role", policy_access.least_rights, at("RoleBinding", "instar-stage", "roleRef/name", "admin")),
    ("default account", policy_access.least_rights, at("RoleBinding", "instar-chain", "subjects/0/name", "default")),
    ("no deny", network.denied, lambda w: w.objects.remove(one(w, "NetworkPolicy", "default-deny"))),
    ("deny one way", network.denied, at("NetworkPolicy", "default-deny", "spec/policyTypes", ["Ingress"])),
    ("everyone", network.narrow, at("NetworkPolicy", "mlflow", "spec/ingress/0/from", None)),
    ("every port", network.narrow, at("NetworkPolicy", "mlflow", "spec/ingress/0/ports", None)),
    (
        "every namespace",
        network.narrow,
        at("NetworkPolicy", "mlflow", "spec/ingress/0/from/+", {"namespaceSelector": {}}),
    ),
    ("internet", network.narrow, at("NetworkPolicy", "store", "spec/egress/0/to/0/ipBlock/cidr", "0.0.0.0/0")),
    ("metadata", network.narrow, at("NetworkPolicy", "store", "spec/egress/0/to/0/ipBlock/cidr", "169.254.0.0/16")),
    ("whole namespace", network.narrow, at("NetworkPolicy", "mlflow", "spec/egress/0/to/0/podSelector", {})),
    ("PodSecurity", policy_links.namespaces, at("Namespace", "instar", "metadata/labels", {})),
    ("namespace unsaid", policy_links.namespaces, at("Service", "mlflow", "metadata/namespace", None)),
    ("other namespace", policy_links.namespaces, at("Service", "mlflow", "metadata/namespace", "default")),
    ("secret missing", policy_links.configuration, pod("containers/0/env/0/valueFrom/secretKeyRef/name", "gone")),
    ("key missing", policy_links.configuration, pod("containers/0/env/0/valueFrom/secretKeyRef/key", "gone")),
    ("config missing", policy_links.configuration, lambda w: w.objects.remove(one(w, "ConfigMap", "instar-store"))),
    ("account missing", policy_links.configuration, pod("serviceAccountName", "gone")),
    ("volume missing", policy_links.configuration, pod("volumes", [])),
    (
        "claim missing",
        policy_links.configuration,
        pod("volumes/0", {"name": "tmp", "persistentVolumeClaim": {"claimName": "x"}}),
    ),
    ("service selects none", policy_links.selectors, at("Service", "mlflow", "spec/selector", {"a": "b"})),
    ("service port", policy_links.selectors, at("Service", "mlflow", "spec/ports/0/targetPort", "grpc")),
    (
        "budget selects none",
        policy_links.selectors,
        at("PodDisruptionBudget", "mlflow", "spec/selector/matchLabels", NONE),
    ),
    ("no budget", policy_links.selectors, lambda w: w.objects.remove(one(w, "PodDisruptionBudget", "postgres"))),
    (
        "monitor's labels",
        policy_links.selectors,
        at("ServiceMonitor", "mlflow", "spec/selector/matchLabels", {"a": "b"}),
    ),
    ("monitor's port", policy_links.selectors, at("ServiceMonitor", "mlflow", "spec/endpoints/0/port", "grpc")),
    ("queue missing", policy_links.queues, at("LocalQueue", "train", "spec/clusterQueue", "gone")),
    ("flavour missing", policy_links.queues, lambda w: w.objects.remove(one(w, "ResourceFlavor", "instar-h100"))),
    (
        "resources out of order",
        policy_links.queues,
        at("ClusterQueue", "instar-eval", f"{GROUP}/coveredResources", ["cpu"]),
    ),
    ("borrowing alone", policy_links.queues, at("ClusterQueue", "instar-eval", "spec/cohortName", None)),
    ("pool's account", policy_pools.agreement, lambda w: w.objects.remove(one(w, "ServiceAccount", "instar-stage"))),
    ("pool's endpoint", policy_pools.agreement, at("ConfigMap", "instar-store", "data/endpoint", "http://x")),
    ("launcher's endpoint", policy_pools.agreement, at("ConfigMap", "kfp-launcher", "data/providers", "s3: {}")),
    ("pool's tracking", policy_pools.agreement, at("Service", "mlflow", "spec/ports/0/port", 80)),
    ("pool's queue", policy_pools.agreement, lambda w: w.objects.remove(one(w, "LocalQueue", "rollout"))),
    (
        "flavour's nodes",
        policy_pools.agreement,
        at("ResourceFlavor", "instar-h100", "spec/nodeLabels", {"gpu": "other"}),
    ),
    ("flavour's taint", policy_pools.agreement, at("ResourceFlavor", "instar-h100", "spec/nodeTaints/0/key", "other")),
    ("queue too small", policy_pools.agreement, at("ClusterQueue", "instar-train", f"{GROUP}/{LAST}", "4")),
    ("quota too small", policy_pools.agreement, at("ResourceQuota", "runs", "spec/hard/requests.nvidia.com~gpu", "4")),
    (
        "gang above the queue",
        policy_pools.agreement,
        at("ClusterQueue", "instar-rollout", f"{WIDE}/2/borrowingLimit", "7"),
    ),
    (
        "gang's memory",
        policy_pools.agreement,
        at("ClusterQueue", "instar-rollout", f"{WIDE}/1", quota("memory", "480Gi", "479Gi")),
    ),
    ("gang's disk", policy_pools.agreement, at("ClusterQueue", "instar-rollout", f"{WIDE}/3", DISK)),
    (
        "gang above the quota",
        policy_pools.agreement,
        at("ResourceQuota", "runs", "spec/hard/requests.nvidia.com~gpu", "15"),
    ),
    ("gang's limits", policy_pools.agreement, at("ResourceQuota", "runs", "spec/hard/limits.memory", "959Gi")),
    ("queue of a pool gone", policy_pools.agreement, at("LocalQueue", "train", "spec/clusterQueue", "gone")),
    ("disk not covered", policy_pools.covered, at("ClusterQueue", "instar-train", f"{GROUP}/coveredResources/3", None)),
    ("GPU not covered", policy_pools.covered, at("ClusterQueue", "instar-eval", f"{GROUP}/coveredResources/2", None)),
    (
        "default not covered",
        policy_pools.covered,
        at("LimitRange", "runs", "spec/limits/0/defaultRequest/instar.dev~x", "1"),
    ),
    (
        "archive of another store",
        policy_runs.archived,
        at("ConfigMap", "artifact-repositories", "data/runs", "archiveLogs: true"),
    ),
    ("variable", policy_runs.expanded, at("ConfigMap", "instar-store", "data/k", "$(kfp-namespace)")),
    ("audience", policy_runs.audiences, lambda w: w.objects.append(server())),
    ("limit not covered", policy_pools.covered, at("LimitRange", "runs", "spec/limits/0/default/instar.dev~x", "1")),
]


def secret() -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "instar"}}


def server() -> Object:
    """Return an API server that takes tokens of its default audience, which the schedule's is not."""
    spec = {"template": {"spec": {"containers": [{"name": "ml-pipeline-api-server"}]}}}
    return {"kind": "Deployment", "metadata": {"name": "ml-pipeline", "namespace": "kubeflow"}, "spec": spec}


def cluster_binding() -> Object:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"}}


@pytest.mark.parametrize(("policy", "fault"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_planted_fault_is_found(overlay: Overlay, policy: Policy, fault: Fault) -> None:
    world = overlay("gpu-prod")
    assert list(policy(world)) == []
    fault(world)
    found = list(policy(world))
    assert found
    assert all(all(dataclasses.astuple(f)) for f in found), "a field of a finding is empty"


def test_every_policy_has_a_fault() -> None:
    assert {policy for _, policy, _ in FAULTS} | {policy_access.no_placeholder} == set(POLICIES)


@pytest.mark.parametrize("image", ["mlflow:latest", "mlflow", "mlflow:3.17", "instar-cuda:dev"])
def test_development_uses_exactly_the_pinned_tags(overlay: Overlay, image: str) -> None:
    world = overlay("kind-dev")
    assert list(policy_access.images(world)) == []
    pod("containers/0/image", image)(world)
    assert [f.found for f in policy_access.images(world)] == [image]


def test_what_is_left_to_a_site_is_refused_at_install(overlay: Overlay) -> None:
    world = overlay("gpu-prod")
    assert policy_access.unfilled(world) == ["image digests", "address range of the store"]
    assert findings(world) == []
    refused = findings(dataclasses.replace(world, site=True))
    assert {"image" in f.where for f in refused} == {True, False}
    assert any("store: spec.egress[0].to[0].ipBlock.cidr" in f.where for f in refused)


def test_quantities() -> None:
    assert [quantity(q) for q in ("250m", "2", "1Ki", "1Gi", "1k", "1.5")] == [0.25, 2, 1024, 2**30, 1000, 1.5]
    with pytest.raises(ValueError, match="not a quantity"):
        quantity("1GiB")
