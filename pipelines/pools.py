"""Node-pool profiles: one TOML file says everything about a cluster that the tasks of a pipeline need."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from instar import config as configs
from instar import plain
from instar.errors import ConfigError, nearest
from instar.pipelines.catalog import STAGES

DEFAULT = Path(__file__).with_name("pools.toml")
TASKS = frozenset({"default", "begin", "open", "gate", "advance", "gang", "tick", *STAGES})
USER, GROUP = 10001, 0
"""User and group of every container. The images run as any user, and the group owns what they write."""
QUEUE_S = 86400
"""A gang waits for its nodes at most this long."""
MAX_WAVES = 8
"""The shards of a gang may run in at most this many rounds. Each round may take as long as its pool allows."""
MARGIN_S = 60
"""`instar supervise` stops a stage this long before its pod's deadline. So there is time to write the stacks and a reason."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CPU = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?m?")
_BYTES = re.compile(r"(?=.*[1-9])[0-9]+([KMGTPE]i|[MGTPE])?")
"""Quantities above zero that Kubernetes and Kubeflow Pipelines both read."""
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"({_NAME}(:[0-9]{{1,5}})?(/{_NAME})*/?)?")


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint that pods of the pool accept; fields as in Kubernetes."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Ephemeral disk at `/tmp`: an emptyDir, or a volume of a storage class (`class`).

    Any user must be able to write to the volumes of that class, because Kubeflow Pipelines sets no fsGroup.
    """

    size: str
    class_: str = ""

    def __post_init__(self) -> None:
        _check(_BYTES.fullmatch(self.size), "scratch.size", "a quantity, for example 8Gi", self.size)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A kind of node, and what a pod may use there. Quantities are written as in Kubernetes."""

    image: str = "instar-cpu"
    cpu: str
    memory: str
    accelerator: str = ""
    count: int = 0
    shm: str = ""
    """Size of the memory-backed `/dev/shm`. It counts against `memory`."""
    scratch: Scratch
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    queue: str = ""
    """Kueue queue of the pods."""
    parallelism: int = 0
    """Pods of one gang that run at one time; it must stay within the queue's quota. 0 means all at once."""
    timeout_s: int

    def __post_init__(self) -> None:
        _check(_CPU.fullmatch(self.cpu), "cpu", "a quantity, for example 4 or 500m", self.cpu)
        _check(_BYTES.fullmatch(self.memory), "memory", "a quantity, for example 16Gi", self.memory)
        _check(not self.shm or _BYTES.fullmatch(self.shm), "shm", "a quantity, for example 1Gi, or nothing", self.shm)
        _check(self.timeout_s > MARGIN_S, "timeout_s", f"more than {MARGIN_S} seconds", self.timeout_s)
        gpu = bool(self.accelerator)
        if gpu != (self.count > 0) or (gpu and not (self.tolerations and self.shm)):
            raise ConfigError(
                expected="accelerator, count, tolerations and shm together, or none of accelerator and count",
                found=f"accelerator '{self.accelerator}', count {self.count}, {len(self.tolerations)} tolerations, "
                f"shm '{self.shm}'",
                where="pools",
                action="set all four: without a toleration no GPU pod is scheduled, and without shm it dies in its data loader",
            )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster. `tasks` maps a stage or control task to a pool; `default` is for all others."""

    registry: str
    service_account: str
    launcher_account: str = ""
    """Service account of runs that start jobs of their own. If it is empty, they use `service_account`."""
    store_secret: str
    store_endpoint: str
    kfp_host: str
    namespace: str = ""
    """Namespace of the runs, where Kubeflow Pipelines serves several users."""
    kfp_token: str = ""
    """Path in the pod of the token for the API server; empty if the server wants none."""
    mlflow: str
    tasks: dict[str, str]
    pools: dict[str, Pool]

    def __post_init__(self) -> None:
        for key in ("store_secret", "service_account", "store_endpoint"):
            _check(getattr(self, key).strip(), key, "a name that is not empty", getattr(self, key))
        _check(_REGISTRY.fullmatch(self.registry), "registry", "HOST[:PORT][/PREFIX] in lower case", self.registry)
        unknown = sorted(set(self.tasks) - TASKS)
        if unknown:
            raise ConfigError(
                expected="only names of stages and control tasks",
                found=f"'{unknown[0]}'",
                where="pools.tasks",
                action=nearest(unknown[0], TASKS),
            )
        wrong = sorted(pool for pool in self.tasks.values() if pool not in self.pools)
        if wrong or "default" not in self.tasks:
            raise ConfigError(
                expected="a default pool, and every task in a pool of this profile",
                found=f"pools {wrong}" if wrong else "no default",
                where="pools.tasks",
                action=nearest(wrong[0], self.pools) if wrong else "add tasks.default",
            )

    def timeout_s(self, task: str) -> int:
        """Return the seconds that a pod of a task may take. The pod that starts a gang also waits for the gang's nodes and pods."""
        own = self.pool(task).timeout_s
        return own if task != "gang" else own + QUEUE_S + MAX_WAVES * self.pool("rollout").timeout_s

    def pool(self, task: str) -> Pool:
        """Return the pool of a stage or control task."""
        return self.pools[self.tasks.get(task, self.tasks["default"])]


def load(name: str, path: Path | None = None) -> Profile:
    """Return the profile `name` of a pools file. Without `path` it is the file that comes with instar."""
    raw = configs.load_toml(path or DEFAULT)
    if name not in raw:
        raise ConfigError(
            expected=f"a profile of {path or DEFAULT}", found=f"'{name}'", where="--profile", action=nearest(name, raw)
        )
    profile: Profile = configs.from_dict(Profile, _renamed(raw[name]), where=f"pools.{name}")
    return profile


def _check(holds: Any, key: str, expected: str, found: Any) -> None:
    if not holds:
        raise ConfigError(expected=expected, found=repr(found), where=f"pools: {key}", action="correct the pools file")


def _renamed(raw: Any) -> Any:
    """Return the table with the key `class` renamed to the field `class_`, because `class` is a keyword in Python."""
    if isinstance(raw, dict):
        return {("class_" if k == "class" else k): _renamed(v) for k, v in raw.items()}
    return [_renamed(v) for v in raw] if isinstance(raw, list) else raw


@dataclass(frozen=True, kw_only=True)
class Images:
    """The lock that a build writes: image name -> digest. A cluster takes its image references from here alone.

    With a `tag` there is no lock. Images then have the names that a build gives them on its own machine, for example
    `instar-cpu:dev`.
    """

    digests: dict[str, str]
    tag: str = ""

    def reference(self, name: str, registry: str) -> str:
        """Return `registry/name@sha256:...`; a name that the lock does not hold is a `ConfigError`."""
        if self.tag:
            return f"{name}:{self.tag}"
        if name not in self.digests:
            raise ConfigError(
                expected=f"an image of the lock: {', '.join(sorted(self.digests))}",
                found=f"'{name}'",
                where="images.lock",
                action="build and push the image, or choose another one in the pools file",
            )
        digest = self.digests[name]
        if not registry:
            return f"{name}@{digest}"
        return f"{registry.rstrip('/')}/{name}@{digest}"


LOCAL = Images(digests={}, tag="dev")
"""What `make images` builds."""


def load_images(path: Path) -> Images:
    """Read the lock. It must hold digests, because a tag can be moved to another image under a pipeline."""
    try:
        raw = plain.loads(path.read_text(encoding="utf-8"))
        digests = {str(name): str(entry["digest"]) for name, entry in raw.items()}
    except FileNotFoundError as error:
        raise ConfigError(
            expected="the lock of image digests",
            found="no such file",
            where=str(path),
            action="run `make images`, which builds the images and writes the lock, or name another lock with --images",
        ) from error
    except OSError as error:
        raise ConfigError(
            expected="a file that can be read",
            found=f"{error.strerror}",
            where=str(path),
            action="name the file of the lock",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            expected="a JSON object: image name -> digest",
            found=f"{error}",
            where=str(path),
            action="build the images again",
        ) from error
    bad = sorted(name for name, digest in digests.items() if not _DIGEST.fullmatch(digest))
    if bad:
        raise ConfigError(
            expected="digests sha256:<64 hex>",
            found=digests[bad[0]],
            where=f"{path}:{bad[0]}",
            action="write a digest, not a tag",
        )
    return Images(digests=digests)
