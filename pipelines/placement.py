"""Writes what a pool profile says onto a KFP task: resources, nodes, memory, disk, references to credentials, deadline, user."""

from __future__ import annotations

from typing import Any

from instar.pipelines.chain.segment import HOST, NAMESPACE, TOKEN
from instar.pipelines.pools import GROUP, MARGIN_S, USER, Pool, Profile

_RETRIES = 2
WHERE = {
    "INSTAR_NAMESPACE": "metadata.namespace",
    "INSTAR_WORKFLOW": "metadata.labels['workflows.argoproj.io/workflow']",
}
"""Variables that tell the task of a gang where it runs, and the field of its pod that each of them is read from."""


def place(task: Any, kind: str, profile: Profile, threads: int) -> None:
    """Apply the pool of a task. Argo retries failures of the infrastructure, `instar supervise` those of the program."""
    from kfp import kubernetes  # pyright: ignore[reportMissingImports]

    pool = profile.pool(kind)
    task.set_cpu_request(pool.cpu).set_cpu_limit(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
    if pool.accelerator:
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(pool.count)
    task.set_retry(num_retries=_RETRIES, backoff_duration="30s", backoff_factor=2.0)
    for name, value in environment(kind, profile, threads).items():
        task.set_env_variable(name, value)
    secret = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
    kubernetes.use_secret_as_env(task, profile.store_secret, secret)
    for key, value in pool.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for t in pool.tolerations:
        kubernetes.add_toleration(task, key=t.key, operator=t.operator, value=t.value or None, effect=t.effect)
    _volumes(task, pool)
    if kind == "gang":
        for name, path in WHERE.items():
            kubernetes.use_field_path_as_env(task, env_name=name, field_path=path)
    if pool.queue:
        kubernetes.add_pod_label(task, "kueue.x-k8s.io/queue-name", pool.queue)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=GROUP, run_as_non_root=True)
    kubernetes.set_timeout(task, profile.timeout_s(kind))
    kubernetes.set_image_pull_policy(task, "IfNotPresent")


def environment(kind: str, profile: Profile, threads: int) -> dict[str, str]:
    """Return the environment of a task, without secrets.

    Only `advance` and `tick` get the addresses of the API server and of MLflow, because only they speak to them.
    """
    variables = {
        "INSTAR_S3_ENDPOINT": profile.store_endpoint,
        "INSTAR_STAGE_S": str(profile.timeout_s(kind) - MARGIN_S),
    }
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    if kind in ("advance", "tick"):
        services = {HOST: profile.kfp_host, NAMESPACE: profile.namespace, TOKEN: profile.kfp_token}
        services["MLFLOW_TRACKING_URI"] = profile.mlflow
        variables |= {name: value for name, value in services.items() if value}
    return variables


def _volumes(task: Any, pool: Pool) -> None:
    from kfp import kubernetes  # pyright: ignore[reportMissingImports]

    if pool.shm:
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pool.shm)
    size, name = pool.scratch.size, pool.scratch.class_
    if name:
        kubernetes.add_ephemeral_volume(
            task,
            volume_name="scratch",
            mount_path="/tmp",
            access_modes=["ReadWriteOnce"],
            size=size,
            storage_class_name=name,
        )
    else:
        kubernetes.empty_dir_mount(task, volume_name="scratch", mount_path="/tmp", size_limit=size)
