"""The manifest of a gang: one JobSet for all shards of a rollout.

Pure functions return plain dicts. The name of a job is a hash of what it has to produce. So a launcher that is started again finds
the job of its predecessor. The fields are those of JobSet v0.12 (`jobset.x-k8s.io/v1alpha2`). `pod` describes the pods.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from instar import config as configs
from instar.contract import WHOLE, Shard, Stage
from instar.errors import BY_CODE, ConfigError
from instar.ledger import memo_key
from instar.pipelines.chain.gang import pod as pods
from instar.pipelines.chain.gang.pod import PodSettings, Work

SPEC_DIGEST = "instar.dev/spec-digest"
"""Annotation with a digest of the job as it was asked for. Objects cannot be compared, because controllers add defaults to them."""
QUEUE = "kueue.x-k8s.io/queue-name"
KEEP_S = 3600
"""A finished JobSet is deleted after this many seconds, with the logs of its pods."""
RETRIES = 2
"""New pods for one shard, in addition to the attempts of `instar supervise` inside a pod."""
_NOT_STARTED = {2, 126, 127}
"""Exit codes for wrong options, for a command that cannot be executed, and for a command that does not exist."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The Workflow that a job belongs to. If the Workflow is deleted, the job is deleted too."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class GangJob:
    """One stage call whose work several pods share. `parallelism` pods run at a time; 0 means all at once."""

    stage: Stage[Any, Any, Any]
    config: Any
    store: str
    evolution: str
    step: int
    inputs: dict[str, str]
    """Input port -> digest."""
    shards: int
    parallelism: int = 0
    pod: PodSettings
    namespace: str
    owner: Owner

    def __post_init__(self) -> None:
        if self.shards < 1 or not 0 <= self.parallelism <= self.shards:
            raise ConfigError(
                expected="at least one shard, and no more pods at a time than shards",
                found=f"{self.shards} shards, {self.parallelism} at a time",
                where="gang",
                action="correct rollout.shards or the parallelism of the gang",
            )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the memo keys of the records that the pods leave, in the order of the shards."""
        config = configs.digest(self.config)
        parts = [Shard(number, self.shards) for number in range(self.shards)] if self.shards > 1 else [WHOLE]
        return tuple(
            memo_key(
                stage=self.stage.name,
                version=self.stage.version,
                config=config,
                inputs=self.inputs,
                evolution=self.evolution,
                step=self.step,
                shard=part,
            )
            for part in parts
        )

    @property
    def name(self) -> str:
        """Return the job's name. It is short enough for the names that controllers derive from it."""
        digest = hashlib.sha256(configs.dumps([self.store, self.evolution, *self.keys]).encode()).hexdigest()
        return f"instar-{self.stage.name}-{digest[:20]}"

    @property
    def deadline_s(self) -> int:
        """Return how many seconds the job may run, without its time in the queue.

        Each round of pods may take as long as the pool allows, and the time of one more round is added.
        """
        waves = math.ceil(self.shards / (self.parallelism or self.shards))
        return self.pod.pool.timeout_s * (waves + 1)

    @property
    def work(self) -> Work:
        """Return what the containers execute."""
        arguments = ["--record", "--store", self.store, "--evolution", self.evolution, "--step", str(self.step)]
        arguments += ["--config", configs.dumps(self.config)]
        for port, digest in sorted(self.inputs.items()):
            arguments += [f"--{port.replace('_', '-')}", digest]
        return Work(stage=self.stage.name, arguments=tuple(arguments), shards=self.shards)


def rollout_jobset(job: GangJob) -> dict[str, Any]:
    """Return the JobSet whose pods each run one shard of a stage and record it."""
    spec: dict[str, Any] = {
        "network": {"enableDNSHostnames": False},
        "failurePolicy": {"maxRestarts": 0},
        "ttlSecondsAfterFinished": KEEP_S,
        "replicatedJobs": [{"name": "shard", "replicas": 1, "template": {"spec": _indexed_job(job)}}],
    }
    return _manifest("jobset.x-k8s.io/v1alpha2", "JobSet", job, spec)


def permanent_codes() -> list[int]:
    """Return the exit codes after which no pod has to try again."""
    return sorted({code for code, kind in BY_CODE.items() if not kind.transient} | _NOT_STARTED)


def _indexed_job(job: GangJob) -> dict[str, Any]:
    """Return the Job with its rules for failed pods.

    An eviction does not count as a retry. A permanent error ends the whole job. Any other failure uses up one retry of its shard.
    A shard without retries left does not stop the others, because what they record is not computed again.
    """
    rules: list[dict[str, Any]] = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": permanent_codes()}},
    ]
    return {
        "completionMode": "Indexed",
        "completions": job.shards,
        "parallelism": job.parallelism or job.shards,
        "backoffLimitPerIndex": RETRIES,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "activeDeadlineSeconds": job.deadline_s,
        "template": pods.template(job.work, job.pod),
    }


def _manifest(version: str, kind: str, job: GangJob, spec: dict[str, Any]) -> dict[str, Any]:
    labels = pods.labels(job.stage.name)
    if queue := job.pod.pool.queue:
        labels[QUEUE] = queue
        spec = {**spec, "suspend": True}  # Kueue starts it when there is room for all its pods
    asked = hashlib.sha256(configs.dumps([version, kind, labels, spec]).encode()).hexdigest()
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": job.owner.name, "uid": job.owner.uid}
    metadata = {"name": job.name, "namespace": job.namespace, "labels": labels, "ownerReferences": [owner]}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {**metadata, "annotations": {SPEC_DIGEST: asked}},
        "spec": spec,
    }
