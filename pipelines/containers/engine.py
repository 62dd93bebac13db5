"""Runs one task in a Docker container that is as restricted as a pod on the cluster, and turns its end into a named error.

A container has a read-only root, no capabilities, no new privileges, and a user that the image does not know. Memory, CPUs and
processes are limited. Secrets reach only the tasks that ask for them, and are masked in logs and errors.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, InstarError, MissingDependencyError, UnavailableError
from instar.pipelines.containers.ends import copy_log, failed, masked
from instar.pipelines.containers.program import Machine

GONE = (404, 409)  # statuses that say: the container does not exist, or is being removed
RUN = "instar.run"  # label of every container of a run


@dataclass(frozen=True, kw_only=True)
class Options:
    """How containers run here. Values of `environment` replace those of the pipeline. `secrets` are the values of its references.

    `writable` are host folders that every task may write to, for example a store that is a directory.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: str = "none"
    user: str = "1000650000:0"
    memory: int = 4 << 30
    """Most bytes of memory for one task, even if the pipeline asks for more."""
    tmp: int = 1 << 30
    """Most bytes in /tmp, which count as memory."""
    cpus: float = 0.0
    """Most CPUs for one task; 0 means all CPUs of the engine."""
    pids: int = 512
    timeout_s: float = 6 * 3600.0
    grace_s: float = 10.0
    parallelism: int = 1
    """Items of a loop that run at one time."""
    writable: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One container to run. `folder` holds its log and, in `out`, its outputs; `inputs` are read-only host folders."""

    run: str
    task: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    folder: Path
    inputs: tuple[Path, ...]
    machine: Machine
    limit_s: float


def connect() -> Any:
    """Return a client of the Docker engine that the environment names."""
    try:
        import docker
    except ImportError as error:
        raise MissingDependencyError(
            expected="the Docker SDK", found="none", where="containers", action="pip install 'instar[containers]'"
        ) from error
    with reported("Docker engine", {}):
        engine = docker.from_env()
        engine.ping()
        return engine


def clear(engine: Any, run: str) -> None:
    """Remove every container of a run, running or not."""
    with reported("Docker engine", {}):
        for container in engine.containers.list(all=True, filters={"label": f"{RUN}={run}"}, ignore_removed=True):
            with _gone():
                container.remove(force=True)


def run_container(engine: Any, job: Job, options: Options) -> None:
    """Run `job` to its end. Raise the error that its exit code stands for. The container is always removed."""
    log = job.folder / "log.txt"
    late = threading.Event()
    with reported(f"task {job.task}", options.secrets):
        container = engine.containers.create(**_settings(engine, job, options))
        timer = threading.Timer(job.limit_s, _stop, (container, late, options.grace_s))
        try:
            container.start()
            timer.start()
            tail = copy_log(container.logs(stream=True, follow=True), log, options.secrets)
            code = int(container.wait()["StatusCode"])
            container.reload()
            out_of_memory = bool(container.attrs["State"]["OOMKilled"])
        finally:
            timer.cancel()
            with _gone():
                container.remove(force=True)
    if code != 0:
        late_s = job.limit_s if late.is_set() else 0.0
        raise failed(code, tail, f"task {job.task} ({log})", late_s=late_s, out_of_memory=out_of_memory)


@contextlib.contextmanager
def reported(where: str, secrets: Mapping[str, str]) -> Iterator[None]:
    """Turn errors of the SDK into named errors. A request that the engine refuses is permanent; a failure of the engine is not."""
    import docker.errors as sdk
    import requests
    import urllib3

    try:
        yield
    except (sdk.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        kind: type[InstarError] = UnavailableError
        action = "check that the engine runs, then run again"
        gone = (
            isinstance(error, sdk.APIError) and error.status_code in GONE and not isinstance(error, sdk.ImageNotFound)
        )
        if isinstance(error, sdk.APIError) and error.is_client_error() and not gone:
            kind, action = ConfigError, "build the image, or correct what the pipeline asks for"
        found = masked(str(error)[:1000], secrets)
        expected = "the container engine to do what it was asked"
        raise kind(expected=expected, found=found, where=where, action=action) from None


def _settings(engine: Any, job: Job, options: Options) -> dict[str, Any]:
    from docker.types import Mount

    out, machine = job.folder / "out", job.machine
    memory = min(machine.memory or options.memory, options.memory)
    cpus = float(min(x for x in (machine.cpu, options.cpus, engine.info()["NCPU"]) if x))
    mounts = [Mount(str(p), str(p), type="bind", read_only=True) for p in sorted(set(job.inputs))]
    mounts += [Mount(str(p), str(p), type="bind") for p in (out, *options.writable)]
    for index, target in enumerate(machine.disk_mounts):
        scratch = open_folder(job.folder / f"scratch-{index}", options.user)
        mounts.append(Mount(target, str(scratch), type="bind"))
    sizes = {} if "/tmp" in machine.disk_mounts else {"/tmp": options.tmp}
    sizes |= {path: size or memory for path, size in machine.memory_mounts.items()}
    shared = sizes.pop("/dev/shm", 64 << 20)
    uid, gid = _ids(
        options.user
    )  # the task must own a tmpfs, because an engine may give it the mode of the image's folder
    kind = f"rw,exec,nosuid,nodev,mode=1777,uid={uid},gid={gid}"
    return {
        "image": job.image,
        "entrypoint": list(job.command) or None,  # as on Kubernetes: the command replaces the image's entry point
        "command": list(job.args) or None,
        "environment": dict(job.env),
        "user": options.user,
        "network_mode": options.network,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": {path: f"{kind},size={size}" for path, size in sizes.items()},
        "shm_size": shared,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(cpus * 1e9),
        "pids_limit": options.pids,
        "mounts": mounts,
        "labels": {RUN: job.run, "instar.task": job.task},
    }


def open_folder(folder: Path, user: str) -> Path:
    """Create a folder that the container's user can write to, and return it."""
    folder.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(folder, *_ids(user))
    else:
        folder.chmod(0o777)
    return folder


def _ids(user: str) -> tuple[int, int]:
    uid, _, gid = user.partition(":")
    return int(uid), int(gid or 0)


def _stop(container: Any, late: threading.Event, grace_s: float) -> None:
    late.set()
    with _gone():
        container.stop(timeout=int(grace_s))


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    """Ignore the error that a container is already gone, or that somebody else is removing it."""
    import docker.errors as sdk

    try:
        yield
    except sdk.APIError as error:
        if error.status_code not in GONE:
            raise
