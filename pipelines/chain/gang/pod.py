"""The pod of a gang. It has few rights and fixed limits, refers to credentials by name, and runs its command without a shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from instar.errors import ConfigError
from instar.pipelines.pools import GROUP, MARGIN_S, USER, Pool

INDEX = "JOB_COMPLETION_INDEX"
_INDEX_FIELD = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_SHM = "/dev/shm"
_GRACE_S = 30


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """Everything about a cluster that the pods of a gang need. It reaches the launcher as one JSON parameter."""

    image: str
    """Reference to the image, with a digest."""
    pool: Pool
    secret: str
    """Name of the secret with the keys `accesskey` and `secretkey` of the store."""
    endpoint: str
    service_account: str
    threads: int = 0

    def __post_init__(self) -> None:
        if "@sha256:" not in self.image:
            raise ConfigError(
                expected="an image with a digest",
                found=f"'{self.image}'",
                where="gang.pod.image",
                action="take the reference from the image lock: a tag can be moved between two pods of one gang",
            )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the containers execute: `instar stage NAME` with these options. Each pod adds its own `--shard`."""

    stage: str
    arguments: tuple[str, ...]
    shards: int


def template(work: Work, pod: PodSettings) -> dict[str, Any]:
    """Return the pod template."""
    pool = pod.pool
    spec: dict[str, Any] = {
        "serviceAccountName": pod.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": pool.timeout_s,
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": GROUP,
            "fsGroup": GROUP,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(pool.node_selector),
        "tolerations": tolerations(pod),
        "containers": [{**container(work, pod), "name": "stage", "volumeMounts": _mounts(pool)}],
        "volumes": _volumes(pool),
    }
    return {"metadata": {"labels": labels(work.stage)}, "spec": spec}


def container(work: Work, pod: PodSettings) -> dict[str, Any]:
    """Return the container without its name and mounts. Kubernetes puts the index of the pod into the last argument."""
    shard = ["--shard", f"$({INDEX})/{work.shards}"] if work.shards > 1 else []
    return {
        "image": pod.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["instar", "supervise", "--", "instar", "stage", work.stage],
        "args": [*(literal(argument) for argument in work.arguments), *shard],
        "env": _environment(pod, indexed=work.shards > 1),
        "resources": _resources(pod.pool),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def literal(text: str) -> str:
    """Return `text` with `$` doubled, because Kubernetes replaces `$(NAME)` by a variable and `$$` by `$`."""
    return text.replace("$", "$$")


def labels(stage: str) -> dict[str, str]:
    """Return the labels of a job and its pods, which network policies and dashboards select."""
    return {"app.kubernetes.io/part-of": "instar", "app.kubernetes.io/component": stage}


def tolerations(pod: PodSettings) -> list[dict[str, str]]:
    """Return the pool's tolerations in the form of Kubernetes."""
    fields = (
        {"key": t.key, "operator": t.operator, "value": t.value, "effect": t.effect} for t in pod.pool.tolerations
    )
    return [{key: value for key, value in toleration.items() if value} for toleration in fields]


def _environment(pod: PodSettings, *, indexed: bool) -> list[dict[str, Any]]:
    plain = {"HOME": "/tmp", "INSTAR_S3_ENDPOINT": pod.endpoint, "INSTAR_STAGE_S": str(pod.pool.timeout_s - MARGIN_S)}
    plain |= {"OMP_NUM_THREADS": str(pod.threads)} if pod.threads else {}
    secret = {"AWS_ACCESS_KEY_ID": "accesskey", "AWS_SECRET_ACCESS_KEY": "secretkey"}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *(
            {"name": name, "valueFrom": {"secretKeyRef": {"name": pod.secret, "key": key}}}
            for name, key in secret.items()
        ),
        *([{"name": INDEX, "valueFrom": {"fieldRef": {"fieldPath": _INDEX_FIELD}}}] if indexed else []),
    ]


def _resources(pool: Pool) -> dict[str, Any]:
    """Return requests and limits, which are equal. The disk has one too: a namespace's default would count the scratch space."""
    disk = "1Gi" if pool.scratch.class_ else pool.scratch.size
    limits = {"cpu": pool.cpu, "memory": pool.memory, "ephemeral-storage": disk}
    if pool.accelerator:
        limits[pool.accelerator] = str(pool.count)
    return {"requests": dict(limits), "limits": limits}


def _mounts(pool: Pool) -> list[dict[str, str]]:
    shared = [{"name": "shm", "mountPath": _SHM}] if pool.shm else []
    return [{"name": "scratch", "mountPath": "/tmp"}, *shared]


def _volumes(pool: Pool) -> list[dict[str, Any]]:
    scratch: dict[str, Any] = {"emptyDir": {"sizeLimit": pool.scratch.size}}
    if pool.scratch.class_:
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": pool.scratch.class_,
            "resources": {"requests": {"storage": pool.scratch.size}},
        }
        scratch = {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    shared = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pool.shm}}] if pool.shm else []
    return [{"name": "scratch", **scratch}, *shared]
