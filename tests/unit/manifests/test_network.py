"""The whole network as one table: who may open a connection to whom. Anything not in the table is refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from manifests.network import Peer, reaches
from manifests.objects import World, pods

NAME, ROLE = "app.kubernetes.io/name", "app.kubernetes.io/component"


def labelled(namespace: str, **labels: str) -> Peer:
    keys = {"name": NAME, "role": ROLE, "k8s_app": "k8s-app", "jobset": "jobset.sigs.k8s.io/jobset-name"}
    return Peer(namespace=namespace, labels={keys.get(k, k): v for k, v in labels.items()})


PEERS = {
    "stage": labelled("instar", role="rollout"),
    "driver": labelled("instar"),
    "gang": labelled("instar", role="update", jobset="one"),
    "sandbox": labelled("instar", role="sandbox"),
    "schedule": labelled("instar", role="schedule"),
    "mlflow": labelled("instar-system", name="mlflow"),
    "postgres": labelled("instar-system", name="postgres"),
    "seaweedfs": labelled("instar-system", name="seaweedfs"),
    "buckets": labelled("instar-system", name="seaweedfs-buckets"),
    "stranger": labelled("instar-system", name="stranger"),
    "pipelines": labelled("kubeflow", app="ml-pipeline"),
    "metadata": labelled("kubeflow", component="metadata-grpc-server"),
    "elsewhere": labelled("default", name="prometheus"),
    "prometheus": labelled("monitoring", name="prometheus"),
    "grafana": labelled("monitoring", name="grafana"),
    "dns": labelled("kube-system", k8s_app="kube-dns"),
    "cluster": Peer(address="10.96.0.1"),
    "cloud metadata": Peer(address="169.254.169.254"),
    "internet": Peer(address="203.0.113.7"),
    "store outside": Peer(address="192.0.2.10"),
}
SERVED = [
    ("dns", 53, "UDP"),
    ("dns", 53, "TCP"),
    ("pipelines", 8888, "TCP"),
    ("pipelines", 8887, "TCP"),
    ("pipelines", 22, "TCP"),
    ("metadata", 8080, "TCP"),
    ("mlflow", 5000, "TCP"),
    ("postgres", 5432, "TCP"),
    ("seaweedfs", 8333, "TCP"),
    ("seaweedfs", 9327, "TCP"),
    ("seaweedfs", 8888, "TCP"),
    ("stage", 8080, "TCP"),
    ("gang", 29500, "TCP"),
    ("sandbox", 80, "TCP"),
    ("cluster", 443, "TCP"),
    ("cluster", 6443, "TCP"),
    ("cluster", 22, "TCP"),
    ("cloud metadata", 80, "TCP"),
    ("cloud metadata", 443, "TCP"),
    ("internet", 443, "TCP"),
    ("store outside", 443, "TCP"),
]
OURS = ("stage", "driver", "gang", "sandbox", "schedule", "mlflow", "postgres", "seaweedfs", "buckets", "stranger")
RUNS = ("stage", "driver", "gang", "schedule")
BASE = {
    *(
        (run, target, port)
        for run in RUNS
        for target, port in (
            ("dns", 53),
            ("pipelines", 8888),
            ("pipelines", 8887),
            ("metadata", 8080),
            ("mlflow", 5000),
            ("cluster", 443),
            ("cluster", 6443),
        )
    ),
    *((service, "dns", 53) for service in ("mlflow", "postgres", "seaweedfs", "buckets", "stranger")),
    ("gang", "gang", 29500),
    ("mlflow", "postgres", 5432),
    ("pipelines", "mlflow", 5000),
}
INSIDE = {(source, "seaweedfs", 8333) for source in (*RUNS, "mlflow", "buckets")}
OUTSIDE = {(source, "store outside", 443) for source in (*RUNS, "mlflow")}
WATCHED = {("prometheus", "mlflow", 5000), ("grafana", "postgres", 5432)}
EXPECTED = {
    "kind-dev": BASE | INSIDE,
    "airgap": BASE | INSIDE | WATCHED | {("prometheus", "seaweedfs", 9327)},
    "gpu-prod": {edge for edge in BASE | OUTSIDE | WATCHED if edge[0] not in ("seaweedfs", "buckets")},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_reachability(overlay: Callable[[str], World], name: str) -> None:
    policies = overlay(name).of("NetworkPolicy")
    absent = {"seaweedfs", "buckets"} if name == "gpu-prod" else set()
    found = {
        (source, target, port)
        for source, (target, port, protocol) in itertools.product(PEERS, SERVED)
        if source in OURS or target in OURS
        if not {source, target} & absent and reaches(policies, PEERS[source], PEERS[target], port, protocol)
    }
    assert found == EXPECTED[name]


def test_the_peers_are_the_pods_of_the_overlays(overlay: Callable[[str], World]) -> None:
    made = {(p.namespace, p.labels.get(NAME) or p.labels.get(ROLE)) for p in pods(overlay("airgap").objects)}
    assert made == {
        ("instar-system", "mlflow"),
        ("instar-system", "postgres"),
        ("instar-system", "seaweedfs"),
        ("instar-system", "seaweedfs-buckets"),
        ("instar", "schedule"),
    }


def test_one_allow_rule_is_not_enough(overlay: Callable[[str], World]) -> None:
    policies = overlay("airgap").of("NetworkPolicy")
    for removed in ("tracking", "mlflow"):
        kept = [p for p in policies if p["metadata"]["name"] != removed]
        assert not reaches(kept, PEERS["stage"], PEERS["mlflow"], 5000)
    unlabelled = dataclasses.replace(PEERS["stage"], namespace="other")
    assert reaches([], unlabelled, PEERS["mlflow"], 5000), "without policies everything is open"
    assert not reaches(policies, unlabelled, PEERS["mlflow"], 5000)
