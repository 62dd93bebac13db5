"""Jobs and closed schemas for the tests of gangs."""

from __future__ import annotations

from typing import Any

from instar.components.catalog import ROLLOUT
from instar.components.rollout.config import SampleConfig
from instar.pipelines import pools
from instar.pipelines.chain.gang.manifests import GangJob, Owner
from instar.pipelines.chain.gang.pod import PodSettings

IMAGE = f"registry.internal/instar/instar-cuda@sha256:{'a' * 64}"
NAMESPACE = "instar"
DIGESTS = {port: f"sha256:{digit * 64}" for port, digit in (("policy", "1"), ("tasks", "2"), ("batch", "3"))}
_OPEN: dict[str, Any] = {"type": "object"}
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}


def pod(profile: str = "gpu-prod", **changes: Any) -> PodSettings:
    """Return the pod settings of the rollout pool of a profile."""
    found = pools.load(profile)
    given: dict[str, Any] = {
        "image": IMAGE,
        "pool": found.pool("rollout"),
        "secret": found.store_secret,
        "endpoint": found.store_endpoint,
        "service_account": found.service_account,
        "threads": 4,
    }
    return PodSettings(**{**given, **changes})


def rollout_job(**changes: Any) -> GangJob:
    """Return a rollout in 24 shards."""
    shards = changes.get("shards", 24)
    given: dict[str, Any] = {
        "stage": ROLLOUT,
        "config": SampleConfig(max_new_tokens=8, shards=max(1, shards)),
        "store": "s3://instar/evolutions",
        "evolution": "sec-seed0",
        "step": 7,
        "inputs": DIGESTS,
        "shards": shards,
        "pod": pod(),
        "namespace": NAMESPACE,
        "owner": Owner(name="sec-run-7", uid="0c7e9c9a-0000-4000-8000-000000000001"),
    }
    return GangJob(**{**given, **changes})


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a schema for an object with these keys and no others."""
    known = {**required, **(optional or {})}
    return {"type": "object", "required": sorted(required), "properties": known, "additionalProperties": False}


OWNER = closed(
    {"apiVersion": {"const": "argoproj.io/v1alpha1"}, "kind": {"const": "Workflow"}, "name": _TEXT, "uid": _TEXT}
)
META = closed(
    {
        "name": _TEXT,
        "namespace": _TEXT,
        "labels": _OPEN,
        "annotations": _OPEN,
        "ownerReferences": {"type": "array", "items": OWNER, "minItems": 1},
    }
)
JOBSET = closed(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": META,
        "spec": closed(
            {
                "network": closed({"enableDNSHostnames": {"type": "boolean"}}),
                "failurePolicy": closed({"maxRestarts": _COUNT}),
                "ttlSecondsAfterFinished": _COUNT,
                "replicatedJobs": {
                    "type": "array",
                    "items": closed(
                        {
                            "name": _TEXT,
                            "replicas": _COUNT,
                            "template": closed({"spec": _OPEN}),
                        }
                    ),
                },
            },
            {"suspend": {"type": "boolean"}},
        ),
    }
)
